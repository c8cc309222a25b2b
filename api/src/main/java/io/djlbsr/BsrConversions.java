/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.util.Arrays;
import java.util.Locale;

/** The algorithms behind the factories of {@link BsrMatrix}. */
final class BsrConversions {

    private BsrConversions() {}

    /** Keeps the blocks of a row-major matrix that hold an element not within the tolerance. */
    static BsrMatrix fromDense(
            float[] dense, int rows, int cols, int blockRows, int blockCols, float tolerance) {
        int blockRowCount = rows / blockRows;
        int blockColCount = cols / blockCols;
        int[] crow = new int[blockRowCount + 1];
        IntList col = new IntList();
        for (int i = 0; i < blockRowCount; i++) {
            for (int j = 0; j < blockColCount; j++) {
                int first = i * blockRows * cols + j * blockCols;
                if (exceeds(dense, first, cols, blockRows, blockCols, tolerance)) {
                    col.add(j);
                }
            }
            crow[i + 1] = col.size();
        }
        BsrStructure structure =
                BsrStructure.of(rows, cols, blockRows, blockCols, crow, col.toArray());
        float[] values = new float[structure.getNnz()];
        copyRows(structure, (at, origin) -> System.arraycopy(dense, origin, values, at, blockCols));
        return BsrMatrix.wrap(structure, values);
    }

    private static boolean exceeds(
            float[] dense, int first, int stride, int blockRows, int blockCols, float tolerance) {
        for (int r = 0; r < blockRows; r++) {
            int start = first + r * stride;
            for (int at = start; at < start + blockCols; at++) {
                // Not written with > so that a NaN counts as above the tolerance.
                if (!(Math.abs(dense[at]) <= tolerance)) {
                    return true;
                }
            }
        }
        return false;
    }

    /** Scatters the blocks of a matrix into zeros. */
    static float[] toDense(BsrStructure s, float[] values) {
        long size = (long) s.getRows() * s.getCols();
        if (size > BsrStructure.MAX_ELEMENTS) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "a dense %dx%d matrix has more than %d elements, the limit of an"
                                    + " array; read the blocks through values()",
                            s.getRows(),
                            s.getCols(),
                            BsrStructure.MAX_ELEMENTS));
        }
        float[] dense = new float[(int) size];
        copyRows(s, (at, to) -> System.arraycopy(values, at, dense, to, s.getBlockCols()));
        return dense;
    }

    private interface RowCopy {
        void copy(int valuesOffset, int denseOffset);
    }

    /** Visits each row of each stored block: its offset in the values and in the dense matrix. */
    private static void copyRows(BsrStructure s, RowCopy copy) {
        int at = 0;
        for (int i = 0; i < s.getBlockRowCount(); i++) {
            for (int k = s.crow(i); k < s.crow(i + 1); k++) {
                for (int r = 0; r < s.getBlockRows(); r++) {
                    int row = i * s.getBlockRows() + r;
                    copy.copy(at, row * s.getCols() + s.col(k) * s.getBlockCols());
                    at += s.getBlockCols();
                }
            }
        }
    }

    /**
     * Sorts blocks given in any order and sums the ones at the same place, in the order given.
     * Indices must be in range.
     */
    static BsrMatrix assemble(
            int rows,
            int cols,
            int blockRows,
            int blockCols,
            int[] rowIndices,
            int[] colIndices,
            float[] values) {
        int[] starts = new int[rows / blockRows + 1];
        for (int i : rowIndices) {
            starts[i + 1]++;
        }
        Arrays.parallelPrefix(starts, Integer::sum);

        // Column and position in one key: sorting is stable and needs no boxes.
        long[] keys = new long[rowIndices.length];
        int[] next = starts.clone();
        for (int k = 0; k < keys.length; k++) {
            keys[next[rowIndices[k]]++] = (long) colIndices[k] << Integer.SIZE | k;
        }

        int[] crow = new int[starts.length];
        IntList col = new IntList();
        int[] target = new int[keys.length];
        for (int i = 0; i + 1 < starts.length; i++) {
            Arrays.sort(keys, starts[i], starts[i + 1]);
            for (int k = starts[i]; k < starts[i + 1]; k++) {
                int j = (int) (keys[k] >>> Integer.SIZE);
                if (k == starts[i] || j != (int) (keys[k - 1] >>> Integer.SIZE)) {
                    col.add(j);
                }
                target[k] = col.size() - 1;
            }
            crow[i + 1] = col.size();
        }
        BsrStructure structure =
                BsrStructure.of(rows, cols, blockRows, blockCols, crow, col.toArray());

        int size = blockRows * blockCols;
        float[] sums = new float[structure.getNnz()];
        for (int k = 0; k < keys.length; k++) {
            int from = (int) keys[k] * size;
            int to = target[k] * size;
            if (k == 0 || target[k] != target[k - 1]) {
                System.arraycopy(values, from, sums, to, size);
            } else {
                for (int e = 0; e < size; e++) {
                    sums[to + e] += values[from + e];
                }
            }
        }
        return BsrMatrix.wrap(structure, sums);
    }

    /** Sorts the blocks of compressed block-rows and sums the ones at the same place. */
    static BsrMatrix fromCompressed(
            long rows,
            long cols,
            int blockRows,
            int blockCols,
            int[] crowIndices,
            int[] colIndices,
            float[] values) {
        BsrStructure.checkShape(rows, cols, blockRows, blockCols);
        BsrStructure.requireNonNull("crowIndices", crowIndices);
        BsrStructure.requireNonNull("colIndices", colIndices);
        BsrStructure.requireNonNull("values", values);
        BsrStructure.checkCompressedIndices(
                "crowIndices", crowIndices, rows / blockRows, "colIndices", colIndices.length);
        BsrMatrix.checkValues(values, colIndices.length, blockRows, blockCols);
        BsrMatrix.checkIndices("colIndices", colIndices, (int) cols / blockCols);
        int[] rowIndices = new int[colIndices.length];
        for (int i = 0; i + 1 < crowIndices.length; i++) {
            Arrays.fill(rowIndices, crowIndices[i], crowIndices[i + 1], i);
        }
        return assemble(
                (int) rows, (int) cols, blockRows, blockCols, rowIndices, colIndices, values);
    }

    /** Cuts a matrix into other blocks; stores those that overlap a stored block. */
    static BsrMatrix reblock(BsrStructure s, float[] values, int blockRows, int blockCols) {
        BsrStructure t = reblock(s, blockRows, blockCols);
        float[] result = new float[t.getNnz()];
        int[] blockAt = new int[t.getBlockColCount()];
        int width = s.getBlockCols();
        int height = s.getBlockRows();
        for (int row = 0; row < s.getRows(); row++) {
            int i = row / height;
            int ti = row / blockRows;
            if (row % blockRows == 0) {
                for (int k = t.crow(ti); k < t.crow(ti + 1); k++) {
                    blockAt[t.col(k)] = k;
                }
            }
            for (int k = s.crow(i); k < s.crow(i + 1); k++) {
                int from = (k * height + row % height) * width;
                int end = (s.col(k) + 1) * width;
                int c = s.col(k) * width;
                while (c < end) {
                    int length = Math.min(end - c, blockCols - c % blockCols);
                    int to = (blockAt[c / blockCols] * blockRows + row % blockRows) * blockCols;
                    System.arraycopy(values, from, result, to + c % blockCols, length);
                    c += length;
                    from += length;
                }
            }
        }
        return BsrMatrix.wrap(t, result);
    }

    private static BsrStructure reblock(BsrStructure s, int blockRows, int blockCols) {
        BsrStructure.checkShape(s.getRows(), s.getCols(), blockRows, blockCols);
        int[] crow = new int[s.getRows() / blockRows + 1];
        IntList col = new IntList();
        // lastSeen[j] is 1 + the last block-row that stores block-column j.
        int[] lastSeen = new int[s.getCols() / blockCols];
        for (int ti = 0; ti + 1 < crow.length; ti++) {
            int firstBlock = s.crow((int) ((long) ti * blockRows / s.getBlockRows()));
            int endBlock = s.crow((int) (((ti + 1L) * blockRows - 1) / s.getBlockRows()) + 1);
            int firstCol = col.size();
            for (int k = firstBlock; k < endBlock; k++) {
                int from = s.col(k) * s.getBlockCols() / blockCols;
                int to = ((s.col(k) + 1) * s.getBlockCols() - 1) / blockCols;
                for (int j = from; j <= to; j++) {
                    if (lastSeen[j] != ti + 1) {
                        lastSeen[j] = ti + 1;
                        col.add(j);
                    }
                }
            }
            col.sort(firstCol);
            crow[ti + 1] = col.size();
        }
        return BsrStructure.of(s.getRows(), s.getCols(), blockRows, blockCols, crow, col.toArray());
    }
}
