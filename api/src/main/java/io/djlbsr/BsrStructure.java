/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.util.Arrays;
import java.util.IntSummaryStatistics;
import java.util.Locale;
import java.util.stream.IntStream;

/**
 * The block structure of a block-sparse-row (BSR) matrix of shape [rows, cols]: which of its blocks
 * of shape [blockRows, blockCols] are stored.
 *
 * <p>The stored blocks of block-row {@code i} are numbered {@code crow(i)} up to but excluding
 * {@code crow(i + 1)}, and block {@code k} lies in block-column {@code col(k)}. Within a block-row
 * the columns strictly increase. Block-rows may be empty, and so may the matrix.
 *
 * <p>A structure is validated when it is made and never changes.
 */
public final class BsrStructure {

    /** The largest float array that every JVM can make. */
    static final int MAX_ELEMENTS = Integer.MAX_VALUE - 8;

    private final int rows;
    private final int cols;
    private final int blockRows;
    private final int blockCols;
    private final int[] crowIndices;
    private final int[] colIndices;

    private BsrStructure(
            int rows, int cols, int blockRows, int blockCols, int[] crowIndices, int[] colIndices) {
        this.rows = rows;
        this.cols = cols;
        this.blockRows = blockRows;
        this.blockCols = blockCols;
        this.crowIndices = crowIndices;
        this.colIndices = colIndices;
    }

    /**
     * Makes a structure from PyTorch's and SciPy's index arrays, which are checked and copied.
     *
     * @param rows the rows of the matrix, a multiple of {@code blockRows}
     * @param cols the columns of the matrix, a multiple of {@code blockCols}
     * @param blockRows the rows of a block, at least 1
     * @param blockCols the columns of a block, at least 1
     * @param crowIndices the compressed block-row indices, [rows / blockRows + 1], from 0 to the
     *     number of stored blocks, never decreasing
     * @param colIndices the block-column of each stored block, [nnzb], sorted and unique within a
     *     block-row
     * @return the structure
     * @throws IllegalArgumentException if a condition above is not met, if rows or cols do not fit
     *     an int, or if the stored blocks hold more elements than a float array
     */
    public static BsrStructure of(
            long rows,
            long cols,
            int blockRows,
            int blockCols,
            int[] crowIndices,
            int[] colIndices) {
        checkShape(rows, cols, blockRows, blockCols);
        requireNonNull("crowIndices", crowIndices);
        requireNonNull("colIndices", colIndices);
        int[] crow = crowIndices.clone();
        int[] col = colIndices.clone();
        checkCompressedIndices("crowIndices", crow, rows / blockRows, "colIndices", col.length);
        checkColumns(crow, col, cols / blockCols);
        checkElements(col.length, blockRows, blockCols);
        return new BsrStructure((int) rows, (int) cols, blockRows, blockCols, crow, col);
    }

    /** Checks that blocks of a shape tile a matrix of a shape, and that both are legal. */
    static void checkShape(long rows, long cols, int blockRows, int blockCols) {
        checkExtent("rows", rows, "blockRows", blockRows);
        checkExtent("cols", cols, "blockCols", blockCols);
    }

    private static void checkExtent(String name, long extent, String blockName, int block) {
        if (block < 1) {
            throw new IllegalArgumentException(blockName + " is " + block + "; use 1 or more");
        }
        if (extent < 0 || extent >= MAX_ELEMENTS) {
            throw new IllegalArgumentException(
                    name + " is " + extent + "; use 0 to " + (MAX_ELEMENTS - 1));
        }
        if (extent % block != 0) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "%s %d is not a multiple of %s %d; pad the matrix or choose a block"
                                    + " shape that divides it",
                            name,
                            extent,
                            blockName,
                            block));
        }
    }

    /** Checks that {@code nnzb} blocks of a shape fit a float array; gives their elements. */
    static int checkElements(long nnzb, int blockRows, int blockCols) {
        // Divide rather than multiply: the product of three ints may overflow a long.
        long blockElements = (long) blockRows * blockCols;
        if (nnzb > 0 && blockElements > MAX_ELEMENTS / nnzb) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "%d blocks of %dx%d hold more than %d elements, the limit of one"
                                    + " matrix; split the matrix",
                            nnzb,
                            blockRows,
                            blockCols,
                            MAX_ELEMENTS));
        }
        return (int) (nnzb * blockElements);
    }

    static void requireNonNull(String name, Object argument) {
        if (argument == null) {
            throw new IllegalArgumentException(name + " is null");
        }
    }

    /** Checks that {@code crow} splits {@code nnz} entries of an array named so into rows. */
    static void checkCompressedIndices(
            String name, int[] crow, long rowCount, String entriesName, int nnz) {
        if (crow.length != rowCount + 1) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "%s has length %d; %d rows need %d",
                            name,
                            crow.length,
                            rowCount,
                            rowCount + 1));
        }
        if (crow[0] != 0) {
            throw new IllegalArgumentException(name + "[0] is " + crow[0] + "; it must be 0");
        }
        for (int i = 1; i < crow.length; i++) {
            if (crow[i] < crow[i - 1]) {
                throw new IllegalArgumentException(
                        String.format(
                                Locale.ROOT,
                                "%s[%d] is %d, less than %d before it; it must never decrease",
                                name,
                                i,
                                crow[i],
                                crow[i - 1]));
            }
        }
        int last = crow[crow.length - 1];
        if (last != nnz) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "%s[%d] is %d; it must be the length of %s, %d",
                            name,
                            crow.length - 1,
                            last,
                            entriesName,
                            nnz));
        }
    }

    private static void checkColumns(int[] crow, int[] col, long columnCount) {
        for (int i = 0; i + 1 < crow.length; i++) {
            for (int k = crow[i]; k < crow[i + 1]; k++) {
                if (col[k] < 0 || col[k] >= columnCount) {
                    throw new IllegalArgumentException(
                            String.format(
                                    Locale.ROOT,
                                    "colIndices[%d] is %d, in block-row %d; it must be at least 0"
                                            + " and less than the number of block-columns, %d",
                                    k,
                                    col[k],
                                    i,
                                    columnCount));
                }
                if (k > crow[i] && col[k] <= col[k - 1]) {
                    throw new IllegalArgumentException(
                            String.format(
                                    Locale.ROOT,
                                    "colIndices[%d] is %d, %s in block-row %d; BsrMatrix.builder"
                                            + " sorts blocks and sums duplicates",
                                    k,
                                    col[k],
                                    col[k] == col[k - 1]
                                            ? "a duplicate"
                                            : "not sorted: it follows " + col[k - 1],
                                    i));
                }
            }
        }
    }

    /**
     * Returns the rows of the matrix.
     *
     * @return the rows
     */
    public int getRows() {
        return rows;
    }

    /**
     * Returns the columns of the matrix.
     *
     * @return the columns
     */
    public int getCols() {
        return cols;
    }

    /**
     * Returns the rows of a block.
     *
     * @return the rows of a block
     */
    public int getBlockRows() {
        return blockRows;
    }

    /**
     * Returns the columns of a block.
     *
     * @return the columns of a block
     */
    public int getBlockCols() {
        return blockCols;
    }

    /**
     * Returns the number of stored blocks.
     *
     * @return the number of stored blocks
     */
    public int getNnzb() {
        return colIndices.length;
    }

    /**
     * Returns the number of stored elements, {@code nnzb · blockRows · blockCols}.
     *
     * @return the number of stored elements, explicit zeros included
     */
    public int getNnz() {
        return colIndices.length * blockRows * blockCols;
    }

    /**
     * Returns the number of block-rows, {@code rows / blockRows}.
     *
     * @return the number of block-rows
     */
    public int getBlockRowCount() {
        return rows / blockRows;
    }

    /**
     * Returns the number of block-columns, {@code cols / blockCols}.
     *
     * @return the number of block-columns
     */
    public int getBlockColCount() {
        return cols / blockCols;
    }

    /**
     * Returns the compressed block-row indices.
     *
     * @return a copy, [blockRowCount + 1]
     */
    public int[] getCrowIndices() {
        return crowIndices.clone();
    }

    /**
     * Returns the block-column of each stored block.
     *
     * @return a copy, [nnzb]
     */
    public int[] getColIndices() {
        return colIndices.clone();
    }

    /**
     * Returns the number of the first stored block of a block-row.
     *
     * @param i a block-row, or {@link #getBlockRowCount()} for the number of stored blocks
     * @return the number of its first block
     */
    public int crow(int i) {
        return crowIndices[i];
    }

    /**
     * Returns the block-column of a stored block.
     *
     * @param k the number of the block, less than {@link #getNnzb()}
     * @return its block-column
     */
    public int col(int k) {
        return colIndices[k];
    }

    /**
     * Returns the share of blocks that are stored.
     *
     * @return 0 to 1; 0 for a matrix without elements
     */
    public double getDensity() {
        double blocks = (double) getBlockRowCount() * getBlockColCount();
        return blocks == 0 ? 0 : colIndices.length / blocks;
    }

    /**
     * Returns count, least, greatest, sum and mean of the stored blocks of a block-row.
     *
     * @return the statistics over all block-rows; those of an empty stream for a matrix without
     *     rows
     */
    public IntSummaryStatistics getRowStatistics() {
        return IntStream.range(0, getBlockRowCount())
                .map(i -> crowIndices[i + 1] - crowIndices[i])
                .summaryStatistics();
    }

    /**
     * Returns the structure of the transposed matrix, whose blocks have the transposed shape.
     *
     * @return the structure, [cols, rows]
     */
    public BsrStructure transpose() {
        return transpose(transposeOrder());
    }

    /** Returns the transposed structure for the {@link #transposeOrder()} of this one. */
    BsrStructure transpose(int[] order) {
        int[] crow = countColumns();
        int[] rowOf = new int[order.length];
        for (int i = 0; i < getBlockRowCount(); i++) {
            Arrays.fill(rowOf, crowIndices[i], crowIndices[i + 1], i);
        }
        int[] col = new int[order.length];
        Arrays.setAll(col, k -> rowOf[order[k]]);
        return new BsrStructure(cols, rows, blockCols, blockRows, crow, col);
    }

    /** Returns, for each block of the transpose in its order, the number of the block here. */
    int[] transposeOrder() {
        int[] next = countColumns();
        int[] order = new int[colIndices.length];
        for (int k = 0; k < order.length; k++) {
            order[next[colIndices[k]]++] = k;
        }
        return order;
    }

    private int[] countColumns() {
        int[] crow = new int[getBlockColCount() + 1];
        for (int j : colIndices) {
            crow[j + 1]++;
        }
        Arrays.parallelPrefix(crow, Integer::sum);
        return crow;
    }

    /** Two structures are equal if shape, block shape and indices are. */
    @Override
    public boolean equals(Object other) {
        return other instanceof BsrStructure that
                && rows == that.rows
                && cols == that.cols
                && blockRows == that.blockRows
                && blockCols == that.blockCols
                && Arrays.equals(crowIndices, that.crowIndices)
                && Arrays.equals(colIndices, that.colIndices);
    }

    @Override
    public int hashCode() {
        int hash = Arrays.hashCode(new int[] {rows, cols, blockRows, blockCols});
        return 31 * (31 * hash + Arrays.hashCode(crowIndices)) + Arrays.hashCode(colIndices);
    }

    /** Returns shape, block shape, number of stored blocks and density. */
    @Override
    public String toString() {
        return String.format(
                Locale.ROOT,
                "BsrStructure(%dx%d, blocks %dx%d, nnzb %d, density %.4g)",
                rows,
                cols,
                blockRows,
                blockCols,
                getNnzb(),
                getDensity());
    }
}
