"""Where a fit may begin instead of at its method's own start: values that another fit left, or that were made for it."""

import hashlib
from dataclasses import replace

from lmtailor.core.errors import AdapterFileError, InputError
from lmtailor.edits.edits import Edits
from lmtailor.methods import method_name
from lmtailor.store.adapter import Adapter


def start_digest(start: Edits | None) -> str | None:
    """A hash of all values of a start, for the settings of a fit; None where there is none."""
    if start is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in {**start.state(), **start.fixed()}.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def started_at(adapter: Adapter, start: Edits | None) -> Adapter:
    """An adapter with these values in place of its own; what its readout trains stays.

    Raises:
        InputError: they are not those of the adapter's method.
    """
    if start is None:
        return adapter
    try:
        edits = adapter.edits.with_state(start.state()).with_fixed(start.fixed())
    except AdapterFileError as error:
        raise InputError(f"The start is not one of {method_name(adapter.method)} with these settings: {error}") from error
    return replace(adapter, edits=edits)
