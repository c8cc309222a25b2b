/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrMatrix;
import java.util.Arrays;
import java.util.Comparator;

/**
 * Prunes a dense weight to the blocks with the largest Frobenius norms.
 *
 * <p>Magnitude pruning without fine-tuning costs accuracy; train the layer afterwards. Blocks of
 * equal norm are kept from the first on, so that the result depends on the weight alone.
 */
public final class BlockPruner {

    private final int blockRows;
    private final int blockCols;
    private final double density;
    private final boolean balanced;

    private BlockPruner(Builder builder) {
        blockRows = builder.blockRows;
        blockCols = builder.blockCols;
        density = builder.density;
        balanced = builder.balanced;
    }

    int blockRows() {
        return blockRows;
    }

    int blockCols() {
        return blockCols;
    }

    /**
     * Creates a builder.
     *
     * @return a new builder
     */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Prunes a weight.
     *
     * <p>The result is rounded to float where the weight is FLOAT64; {@link BsrConverter} takes the
     * structure alone and keeps the values.
     *
     * @param weight the weight, shape [rows, cols], FLOAT16, FLOAT32 or FLOAT64
     * @return the kept blocks
     * @throws IllegalArgumentException if the weight is not a matrix or the blocks do not divide it
     */
    public BsrMatrix prune(NDArray weight) {
        Shape shape = weight.getShape();
        if (shape.dimension() != 2) {
            throw new IllegalArgumentException(
                    "weight has shape " + shape + "; a matrix [rows, cols] is needed");
        }
        try (NDManager scope = weight.getManager().newSubManager()) {
            NDArray constant = weight.stopGradient();
            constant.attach(scope);
            float[] dense = constant.toType(DataType.FLOAT32, false).toFloatArray();
            return prune(dense, Math.toIntExact(shape.get(0)), Math.toIntExact(shape.get(1)));
        }
    }

    /**
     * Prunes a weight.
     *
     * @param dense the weight, row-major
     * @param rows the rows of the weight
     * @param cols the columns of the weight
     * @return the kept blocks
     * @throws IllegalArgumentException if the array has another length or the blocks do not divide
     *     the weight
     */
    public BsrMatrix prune(float[] dense, int rows, int cols) {
        if (dense.length != (long) rows * cols) {
            throw new IllegalArgumentException(
                    "dense has "
                            + dense.length
                            + " elements; "
                            + rows
                            + "x"
                            + cols
                            + " need "
                            + (long) rows * cols);
        }
        BsrMatrix.Builder result = BsrMatrix.builder(rows, cols, blockRows, blockCols);
        int gridRows = rows / blockRows;
        int gridCols = cols / blockCols;
        double[] norms = norms(dense, cols, gridRows, gridCols);
        int group = balanced ? gridCols : norms.length;
        int kept = density == 0 ? 0 : (int) Math.max(1, Math.round(density * group));
        for (int begin = 0; group > 0 && begin < norms.length; begin += group) {
            for (int block : largest(norms, begin, group, kept)) {
                int row = block / gridCols;
                int col = block % gridCols;
                result.add(row, col, copy(dense, cols, row, col));
            }
        }
        return result.build();
    }

    private double[] norms(float[] dense, int cols, int gridRows, int gridCols) {
        double[] norms = new double[gridRows * gridCols];
        for (int row = 0; row < gridRows * blockRows; row++) {
            for (int col = 0; col < cols; col++) {
                double w = dense[row * cols + col];
                norms[row / blockRows * gridCols + col / blockCols] += w * w;
            }
        }
        return norms;
    }

    /** Double.compare puts NaN above all, so that a damaged block is not hidden. */
    private static int[] largest(double[] norms, int begin, int group, int kept) {
        Integer[] order = new Integer[group];
        Arrays.setAll(order, i -> begin + i);
        Arrays.sort(order, Comparator.comparingDouble((Integer i) -> norms[i]).reversed());
        int[] result = new int[kept];
        Arrays.setAll(result, i -> order[i]);
        return result;
    }

    private float[] copy(float[] dense, int cols, int blockRow, int blockCol) {
        float[] block = new float[blockRows * blockCols];
        for (int i = 0; i < blockRows; i++) {
            int from = (blockRow * blockRows + i) * cols + blockCol * blockCols;
            System.arraycopy(dense, from, block, i * blockCols, blockCols);
        }
        return block;
    }

    /** Builds a {@link BlockPruner}. */
    public static final class Builder {

        private int blockRows;
        private int blockCols;
        private double density = -1;
        private boolean balanced;

        private Builder() {}

        /**
         * Sets the block shape.
         *
         * @param blockRows the rows of a block
         * @param blockCols the columns of a block
         * @return this builder
         */
        public Builder setBlockShape(int blockRows, int blockCols) {
            this.blockRows = blockRows;
            this.blockCols = blockCols;
            return this;
        }

        /**
         * Sets the part of the blocks to keep. It is rounded to a whole number of blocks, of the
         * weight or, balanced, of each block-row, and to at least one if it is not 0.
         *
         * @param density the part, 0 to 1
         * @return this builder
         */
        public Builder setDensity(double density) {
            this.density = density;
            return this;
        }

        /**
         * Sets whether each block-row keeps the same number of blocks, which balances the work of
         * the kernels. By default the largest blocks of the whole weight are kept.
         *
         * @param balanced whether block-rows are balanced
         * @return this builder
         */
        public Builder optBalanced(boolean balanced) {
            this.balanced = balanced;
            return this;
        }

        /**
         * Builds the pruner.
         *
         * @return the pruner
         * @throws IllegalArgumentException if block shape or density are not set or out of range
         */
        public BlockPruner build() {
            if (blockRows < 1 || blockCols < 1) {
                throw new IllegalArgumentException(
                        "block shape is "
                                + blockRows
                                + "x"
                                + blockCols
                                + "; call setBlockShape with numbers of 1 or more");
            }
            if (!(density >= 0 && density <= 1)) {
                throw new IllegalArgumentException(
                        "density is " + density + "; call setDensity with a number from 0 to 1");
            }
            return new BlockPruner(this);
        }
    }
}
