"""What draws filters that are not needed towards zero while a network is trained."""

from pydantic import Field

from detpress.options import Options


class SparsityOptions(Options):
    """Penalties on filters that can be taken out."""

    scales: float = Field(
        1e-4, ge=0, le=10, description="factor of the L1 norm of BatchNorm's scales (network slimming)"
    )
    groups: float = Field(1e-4, ge=0, le=10, description="factor of DepGraph's penalty on all tensors that go together")
