"""The sensitivity of a quantized network's layers as a table and as a plot."""

from pathlib import Path

from rich import box
from rich.table import Table

from detpress.measure.sensitivity import Sensitivity


def sensitivity_table(found: Sensitivity, images: int, total_macs: int) -> Table:
    """One row a layer, first those whose rounding costs most. images: how many it was measured on."""
    scored = found.map is not None
    table = Table(
        title=f"The raw maps' SQNR is {found.output_sqnr_db:.2f} dB"
        + (f", mAP on the validation images {found.map:.4f}" if scored else ""),
        caption=(
            f"Measured on {images} images in PyTorch, where integers are computed with as floats. SQNR: the layer's "
            "own, on the input of the float network. Gain: of the raw maps, when this layer alone is left in float"
            f"{', and of mAP' if scored else ''}. Bytes: more for its weights then. MACs: of one image, then in float."
        ),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", no_wrap=True)
    for heading in ("SQNR dB", "gain dB", *(["gain mAP"] if scored else []), "bytes", "MACs", "of all"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in found.by_gain():
        table.add_row(
            layer.name,
            f"{layer.sqnr_db:.2f}",
            f"{layer.gain_db:+.2f}",
            *([f"{layer.map_gain:+.4f}"] if layer.map_gain is not None else []),
            f"{layer.extra_bytes:+,}",
            f"{layer.float_macs / 1e6:,.2f} M",
            f"{layer.float_macs / total_macs:.1%}",
        )
    return table


def plot_sensitivity(found: Sensitivity, path: Path) -> None:
    """Writes two bar charts over the layers, in the network's order, as one HTML page that needs no network."""
    from plotly.subplots import make_subplots

    names = [layer.name.removeprefix("layers.") for layer in found.layers]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    figure.add_bar(
        x=names, y=[layer.sqnr_db for layer in found.layers], name="SQNR of the layer's output", row=1, col=1
    )
    figure.add_bar(x=names, y=[layer.gain_db for layer in found.layers], name="gain when in float", row=2, col=1)
    figure.update_yaxes(title_text="SQNR of the layer, dB", row=1, col=1)
    figure.update_yaxes(title_text="gain of the raw maps, dB", row=2, col=1)
    figure.update_xaxes(title_text="layer", type="category", row=2, col=1)
    figure.update_layout(
        title=f"Signal-to-quantization-noise ratio by layer; of the raw maps, {found.output_sqnr_db:.2f} dB",
        template="simple_white",
        showlegend=False,
    )
    figure.write_html(path, include_plotlyjs=True)
