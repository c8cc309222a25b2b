"""Writes the .npz fixtures of BsrFilesTest with SciPy (made with NumPy 2.4, SciPy 1.17)."""

import numpy as np
import scipy.sparse as sp

INDPTR = np.array([0, 2, 2, 3], np.int32)
INDICES = np.array([0, 2, 1], np.int32)
# Element [k, r, c] is 100 k + 10 r + c + 0.5: exact in float16, another one at each place.
K, R, C = np.ogrid[0:3, 0:2, 0:3]
DATA = (100 * K + 10 * R + C + 0.5).astype(np.float32)


def bsr(data, indices=INDICES, indptr=INDPTR):
    return sp.bsr_array((data, indices, indptr), shape=(6, 9))


sp.save_npz("array.npz", bsr(DATA))
sp.save_npz("stored.npz", bsr(DATA), compressed=False)
sp.save_npz("matrix.npz", sp.bsr_matrix((DATA, INDICES, INDPTR), shape=(6, 9)))
sp.save_npz("empty.npz", sp.bsr_array((6, 9), blocksize=(2, 3), dtype=np.float32))
sp.save_npz("csr.npz", bsr(DATA).tocsr())
sp.save_npz("int.npz", bsr(DATA.astype(np.int32)))

# Blocks of a row in reverse order; block 1 twice, as halves.
sp.save_npz(
    "unsorted.npz",
    bsr(
        np.stack([DATA[1] / 2, DATA[0], DATA[1] / 2, DATA[2]]),
        np.array([2, 0, 2, 1], np.int32),
        np.array([0, 3, 3, 4], np.int32),
    ),
)


def members(name, data, index_type):
    """What save_npz writes, for types that SciPy's classes convert or refuse."""
    np.savez_compressed(
        name,
        indices=INDICES.astype(index_type),
        indptr=INDPTR.astype(index_type),
        format=b"bsr",
        shape=(6, 9),
        data=data,
    )
    if data.dtype.isnative and data.dtype != np.float16:
        assert (sp.load_npz(name).toarray() == bsr(DATA).toarray()).all(), name


members("fortran_float64_int64.npz", np.asfortranarray(DATA.astype(np.float64)), np.int64)
members("float16.npz", DATA.astype(np.float16), np.int32)
members("big_endian.npz", DATA.astype(">f4"), ">i8")
