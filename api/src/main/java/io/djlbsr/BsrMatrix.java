/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Locale;

/**
 * An immutable block-sparse-row (BSR) matrix of float elements: a {@link BsrStructure} and the
 * values of its stored blocks, [nnzb, blockRows, blockCols], each block row-major.
 *
 * <p>Blocks have any shape that tiles the matrix. What is stored is stored: a block of zeros stays
 * until {@link #fromDense(float[], int, int, int, int, float)} drops it, and counts in {@link
 * #getDensity()}. A matrix may have no rows, no columns or no blocks.
 */
public final class BsrMatrix {

    private final BsrStructure structure;
    private final float[] values;

    private BsrMatrix(BsrStructure structure, float[] values) {
        this.structure = structure;
        this.values = values;
    }

    /**
     * Makes a matrix from a structure and the values of its blocks.
     *
     * @param structure the structure
     * @param values the blocks in the order of the structure, [nnzb, blockRows, blockCols]; copied
     * @return the matrix
     * @throws IllegalArgumentException if the number of values is not the structure's
     */
    public static BsrMatrix of(BsrStructure structure, float[] values) {
        BsrStructure.requireNonNull("structure", structure);
        BsrStructure.requireNonNull("values", values);
        return wrap(structure, values.clone());
    }

    /** Takes values over without a copy. */
    static BsrMatrix wrap(BsrStructure s, float[] values) {
        checkValues(values, s.getNnzb(), s.getBlockRows(), s.getBlockCols());
        return new BsrMatrix(s, values);
    }

    static void checkValues(float[] values, int nnzb, int blockRows, int blockCols) {
        BsrStructure.requireNonNull("values", values);
        int expected = BsrStructure.checkElements(nnzb, blockRows, blockCols);
        if (values.length != expected) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "values has length %d; %d blocks of %dx%d need %d",
                            values.length,
                            nnzb,
                            blockRows,
                            blockCols,
                            expected));
        }
    }

    /**
     * Makes a matrix from the blocks of a dense matrix that hold an element above a tolerance.
     *
     * @param dense the elements, [rows, cols] row-major
     * @param rows the rows, a multiple of {@code blockRows}
     * @param cols the columns, a multiple of {@code blockCols}
     * @param blockRows the rows of a block
     * @param blockCols the columns of a block
     * @param tolerance the largest magnitude that counts as zero, at least 0; a block is dropped
     *     only if all its elements are within it, and kept blocks keep all their elements. NaN
     *     counts as above every tolerance.
     * @return the matrix
     * @throws IllegalArgumentException if the blocks do not tile the matrix, the array has another
     *     length, or the tolerance is negative or NaN
     */
    public static BsrMatrix fromDense(
            float[] dense, int rows, int cols, int blockRows, int blockCols, float tolerance) {
        BsrStructure.checkShape(rows, cols, blockRows, blockCols);
        BsrStructure.requireNonNull("dense", dense);
        if (dense.length != (long) rows * cols) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "dense has length %d; a %dx%d matrix has %d elements",
                            dense.length,
                            rows,
                            cols,
                            (long) rows * cols));
        }
        if (!(tolerance >= 0)) {
            throw new IllegalArgumentException(
                    "tolerance is " + tolerance + "; use 0 or a positive magnitude");
        }
        return BsrConversions.fromDense(dense, rows, cols, blockRows, blockCols, tolerance);
    }

    /**
     * Makes a matrix from the blocks of a dense array that hold an element above a tolerance.
     *
     * @param dense the elements, shape [rows, cols], FLOAT32, FLOAT16, or FLOAT64, which is rounded
     *     to float first; of any engine, on any device
     * @param blockRows the rows of a block
     * @param blockCols the columns of a block
     * @param tolerance as for {@link #fromDense(float[], int, int, int, int, float)}
     * @return the matrix
     * @throws IllegalArgumentException if the array is not such a matrix, the blocks do not tile
     *     it, or the tolerance is negative or NaN
     */
    public static BsrMatrix fromDense(
            NDArray dense, int blockRows, int blockCols, float tolerance) {
        BsrStructure.requireNonNull("dense", dense);
        Shape shape = dense.getShape();
        if (shape.dimension() != 2) {
            throw new IllegalArgumentException(
                    "dense has shape " + shape + "; it must be [rows, cols]");
        }
        long rows = shape.get(0);
        long cols = shape.get(1);
        BsrStructure.checkShape(rows, cols, blockRows, blockCols);
        int bytes = dense.getDataType().getNumOfBytes();
        if (rows * cols > Integer.MAX_VALUE / bytes) {
            throw new IllegalArgumentException(
                    "dense has shape "
                            + shape
                            + ", more than the 2 GiB that an NDArray can hand out; split it by rows");
        }
        float[] elements = toFloats(dense);
        return fromDense(elements, (int) rows, (int) cols, blockRows, blockCols, tolerance);
    }

    private static float[] toFloats(NDArray array) {
        return switch (array.getDataType()) {
            case FLOAT32, FLOAT16 -> array.toFloatArray();
            case FLOAT64 -> {
                double[] wide = array.toDoubleArray();
                float[] narrow = new float[wide.length];
                for (int i = 0; i < wide.length; i++) {
                    narrow[i] = (float) wide[i];
                }
                yield narrow;
            }
            default ->
                    throw new IllegalArgumentException(
                            "dense has data type "
                                    + array.getDataType().name()
                                    + "; convert it to FLOAT32, FLOAT16 or FLOAT64");
        };
    }

    /**
     * Makes a matrix from coordinate (COO) triples in any order.
     *
     * <p>A block is stored if a triple lies in it, zeros included; its other elements are 0.
     * Triples of one place are summed in the order given.
     *
     * @param rows the rows, a multiple of {@code blockRows}
     * @param cols the columns, a multiple of {@code blockCols}
     * @param blockRows the rows of a block
     * @param blockCols the columns of a block
     * @param rowIndices the row of each triple, [nnz]
     * @param colIndices the column of each triple, [nnz]
     * @param values the value of each triple, [nnz]
     * @return the matrix
     * @throws IllegalArgumentException if the blocks do not tile the matrix, the arrays differ in
     *     length, an index is out of range, or the blocks hold too many elements
     */
    public static BsrMatrix fromCoo(
            int rows,
            int cols,
            int blockRows,
            int blockCols,
            int[] rowIndices,
            int[] colIndices,
            float[] values) {
        BsrStructure.checkShape(rows, cols, blockRows, blockCols);
        BsrStructure.requireNonNull("values", values);
        checkLength("rowIndices", rowIndices, values.length);
        checkIndices("rowIndices", rowIndices, rows);
        checkLength("colIndices", colIndices, values.length);
        checkIndices("colIndices", colIndices, cols);
        return BsrConversions.assemble(rows, cols, 1, 1, rowIndices, colIndices, values)
                .reblock(blockRows, blockCols);
    }

    /**
     * Makes a matrix from compressed sparse rows (CSR) without blocks.
     *
     * <p>A block is stored if an entry lies in it, zeros included; its other elements are 0. The
     * columns of a row may come in any order, and duplicates are summed in the order given.
     *
     * @param rows the rows, a multiple of {@code blockRows}
     * @param cols the columns, a multiple of {@code blockCols}
     * @param blockRows the rows of a block
     * @param blockCols the columns of a block
     * @param crowIndices the compressed row indices, [rows + 1]
     * @param colIndices the column of each entry, [nnz]
     * @param values the value of each entry, [nnz]
     * @return the matrix
     * @throws IllegalArgumentException if the blocks do not tile the matrix, the arrays are not
     *     such a matrix, or the blocks hold too many elements
     */
    public static BsrMatrix fromCsr(
            int rows,
            int cols,
            int blockRows,
            int blockCols,
            int[] crowIndices,
            int[] colIndices,
            float[] values) {
        BsrStructure.checkShape(rows, cols, blockRows, blockCols);
        return BsrConversions.fromCompressed(rows, cols, 1, 1, crowIndices, colIndices, values)
                .reblock(blockRows, blockCols);
    }

    private static void checkLength(String name, int[] indices, int length) {
        BsrStructure.requireNonNull(name, indices);
        if (indices.length != length) {
            throw new IllegalArgumentException(
                    name + " has length " + indices.length + "; values has " + length);
        }
    }

    static void checkIndices(String name, int[] indices, int extent) {
        for (int k = 0; k < indices.length; k++) {
            if (indices[k] < 0 || indices[k] >= extent) {
                checkIndex(name + "[" + k + "]", indices[k], extent);
            }
        }
    }

    private static void checkIndex(String name, int index, int extent) {
        if (index < 0 || index >= extent) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "%s is %d; it must be at least 0 and less than %d",
                            name,
                            index,
                            extent));
        }
    }

    /**
     * Returns a builder that takes blocks in any order.
     *
     * @param rows the rows, a multiple of {@code blockRows}
     * @param cols the columns, a multiple of {@code blockCols}
     * @param blockRows the rows of a block
     * @param blockCols the columns of a block
     * @return the builder
     * @throws IllegalArgumentException if the blocks do not tile the matrix
     */
    public static Builder builder(int rows, int cols, int blockRows, int blockCols) {
        return new Builder(rows, cols, blockRows, blockCols);
    }

    /**
     * Returns the block structure.
     *
     * @return the structure
     */
    public BsrStructure getStructure() {
        return structure;
    }

    /**
     * Returns the values of the stored blocks.
     *
     * @return a copy, [nnzb, blockRows, blockCols]
     */
    public float[] getValues() {
        return values.clone();
    }

    /**
     * Returns the values of the stored blocks without a copy.
     *
     * @return a read-only view, [nnzb, blockRows, blockCols]
     */
    public FloatBuffer values() {
        return FloatBuffer.wrap(values).asReadOnlyBuffer();
    }

    /**
     * Returns the values of the stored blocks as an array of DJL.
     *
     * @param manager the manager that owns the array
     * @param dataType FLOAT32, FLOAT16 or FLOAT64
     * @return the values, shape [nnzb, blockRows, blockCols]
     * @throws IllegalArgumentException if the data type is another
     */
    public NDArray toValuesArray(NDManager manager, DataType dataType) {
        BsrStructure.requireNonNull("manager", manager);
        BsrStructure.requireNonNull("dataType", dataType);
        if (dataType != DataType.FLOAT32
                && dataType != DataType.FLOAT16
                && dataType != DataType.FLOAT64) {
            throw new IllegalArgumentException(
                    "dataType is " + dataType.name() + "; use FLOAT32, FLOAT16 or FLOAT64");
        }
        Shape shape =
                new Shape(structure.getNnzb(), structure.getBlockRows(), structure.getBlockCols());
        NDArray array = manager.create(values, shape);
        if (dataType == DataType.FLOAT32) {
            return array;
        }
        try (array) {
            return array.toType(dataType, true);
        }
    }

    /**
     * Returns all elements.
     *
     * @return a new array, [rows, cols] row-major, 0 where no block is stored
     * @throws IllegalArgumentException if an array cannot hold so many elements
     */
    public float[] toDense() {
        return BsrConversions.toDense(structure, values);
    }

    /**
     * Returns all elements as an array of DJL.
     *
     * @param manager the manager that owns the array
     * @return the elements, shape [rows, cols], FLOAT32, 0 where no block is stored
     * @throws IllegalArgumentException if an array cannot hold so many elements
     */
    public NDArray toDense(NDManager manager) {
        BsrStructure.requireNonNull("manager", manager);
        return manager.create(toDense(), new Shape(structure.getRows(), structure.getCols()));
    }

    /**
     * Returns the transposed matrix, whose blocks have the transposed shape.
     *
     * @return the matrix, [cols, rows]
     */
    public BsrMatrix transpose() {
        int[] order = structure.transposeOrder();
        int height = structure.getBlockRows();
        int width = structure.getBlockCols();
        float[] transposed = new float[values.length];
        int at = 0;
        for (int k : order) {
            for (int c = 0; c < width; c++) {
                for (int r = 0; r < height; r++) {
                    transposed[at++] = values[(k * height + r) * width + c];
                }
            }
        }
        return new BsrMatrix(structure.transpose(order), transposed);
    }

    /**
     * Returns the same matrix cut into blocks of another shape.
     *
     * <p>The new blocks that overlap a stored block are stored, whatever its values: explicit zeros
     * stay stored, and larger blocks gain zeros where none was. To drop zero blocks go through
     * {@link #toDense()} and {@link #fromDense(float[], int, int, int, int, float)}.
     *
     * @param blockRows the rows of a new block, which must divide the rows
     * @param blockCols the columns of a new block, which must divide the columns
     * @return the matrix
     * @throws IllegalArgumentException if the blocks do not tile the matrix or hold too many
     *     elements
     */
    public BsrMatrix reblock(int blockRows, int blockCols) {
        if (blockRows == structure.getBlockRows() && blockCols == structure.getBlockCols()) {
            return this;
        }
        return BsrConversions.reblock(structure, values, blockRows, blockCols);
    }

    /**
     * Returns the share of blocks that are stored.
     *
     * @return 0 to 1; 0 for a matrix without elements
     */
    public double getDensity() {
        return structure.getDensity();
    }

    /**
     * Two matrices are equal if their structures are and each value equals the other as {@link
     * Float#equals} compares: 0 and -0 differ, and every NaN equals every other, whatever its
     * payload.
     */
    @Override
    public boolean equals(Object other) {
        return other instanceof BsrMatrix that
                && structure.equals(that.structure)
                && Arrays.equals(values, that.values);
    }

    @Override
    public int hashCode() {
        return 31 * structure.hashCode() + Arrays.hashCode(values);
    }

    /** Returns shape, block shape, number of stored blocks and density. */
    @Override
    public String toString() {
        return structure.toString().replaceFirst("BsrStructure", "BsrMatrix");
    }

    /** Collects blocks in any order. */
    public static final class Builder {

        private final int rows;
        private final int cols;
        private final int blockRows;
        private final int blockCols;
        private final IntList rowIndices = new IntList();
        private final IntList colIndices = new IntList();
        private float[] values = new float[0];

        private Builder(int rows, int cols, int blockRows, int blockCols) {
            BsrStructure.checkShape(rows, cols, blockRows, blockCols);
            this.rows = rows;
            this.cols = cols;
            this.blockRows = blockRows;
            this.blockCols = blockCols;
        }

        /**
         * Adds a block. Blocks added at the same place are summed in the order in which they come.
         *
         * @param blockRow the block-row, less than rows / blockRows
         * @param blockCol the block-column, less than cols / blockCols
         * @param block the elements, [blockRows, blockCols] row-major; copied
         * @return this builder
         * @throws IllegalArgumentException if the block has another size, lies outside the matrix,
         *     or is one too many for an array
         */
        public Builder add(int blockRow, int blockCol, float... block) {
            checkIndex("blockRow", blockRow, rows / blockRows);
            checkIndex("blockCol", blockCol, cols / blockCols);
            BsrStructure.requireNonNull("block", block);
            long size = (long) blockRows * blockCols;
            if (block.length != size) {
                throw new IllegalArgumentException(
                        String.format(
                                Locale.ROOT,
                                "block has length %d; a block of %dx%d has %d elements",
                                block.length,
                                blockRows,
                                blockCols,
                                size));
            }
            int used = rowIndices.size() * block.length;
            int needed = BsrStructure.checkElements(rowIndices.size() + 1L, blockRows, blockCols);
            if (needed > values.length) {
                long capacity = Math.max(needed, Math.min(2L * used, BsrStructure.MAX_ELEMENTS));
                values = Arrays.copyOf(values, (int) capacity);
            }
            System.arraycopy(block, 0, values, used, block.length);
            rowIndices.add(blockRow);
            colIndices.add(blockCol);
            return this;
        }

        /**
         * Makes the matrix of the blocks added so far. The builder may go on.
         *
         * @return the matrix
         */
        public BsrMatrix build() {
            return BsrConversions.assemble(
                    rows,
                    cols,
                    blockRows,
                    blockCols,
                    rowIndices.toArray(),
                    colIndices.toArray(),
                    values);
        }
    }
}
