"""What a file is by its layout, for readers that are given one of another format."""

import h5py


def is_tenx(file: h5py.File) -> bool:
    """Whether an HDF5 file is laid out as Cell Ranger's: ``matrix``, or in version 2 a group for each genome."""
    return any(isinstance(group, h5py.Group) and {"barcodes", "indptr"} <= set(group) for group in file.values())
