"""A page of a data set: what was found, and pictures with their boxes to look at."""

from detpress.detector.images import read_image
from detpress.errors import InputError
from detpress.report.drawn_pictures import Picture, as_jpeg, assets, boxes_of, open_templates
from detpress.report.fonts import Lettering, choose_lettering
from detpress.run.data_inspection import Inspection
from detpress.voc.annotation import Annotation
from detpress.voc.coordinates import edges_from_voc
from detpress.voc.devkit import Devkit

OF_EACH_SET = 12  # pictures, spread evenly


def data_page(devkit: Devkit, inspection: Inspection) -> str:
    """The HTML, which holds all that it shows; pictures that cannot be read are left out."""
    lettering = choose_lettering(devkit.classes)
    pictures = []
    for name in devkit.image_set_names:
        try:
            annotations = [found for found in devkit.entries(name) if isinstance(found, Annotation)]
        except InputError:
            continue  # told in the text
        step = max(1, len(annotations) // OF_EACH_SET)
        pictures += [_picture(devkit, name, annotation, lettering) for annotation in annotations[::step][:OF_EACH_SET]]
    return (
        open_templates()
        .get_template("data.html")
        .render(
            title=str(devkit.root),
            text=inspection.text,
            pictures=[picture for picture in pictures if picture],
            numbered=lettering.numbered,
            css=assets("colours.css", "page.css"),
        )
    )


def _picture(devkit: Devkit, image_set: str, annotation: Annotation, lettering: Lettering) -> Picture | None:
    try:
        image = read_image(devkit.image_path(annotation), annotation.size)
    except InputError:
        return None
    difficult = [" (difficult)" if flag else "" for flag in annotation.difficult]
    labels = [f"{lettering.shown[name]}{more}" for name, more in zip(annotation.names, difficult, strict=True)]
    boxes = boxes_of(edges_from_voc(annotation.boxes), annotation.names, labels, devkit.classes)
    panels = [(f"{image_set}: {annotation.image}", boxes)]
    return Picture(annotation.image, image.shape[2], image.shape[1], as_jpeg(image), panels)
