/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.index.NDIndex;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrMatrix;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.stream.IntStream;

/**
 * Prunes a linear layer to blocks by least squares on calibration data.
 *
 * <p>Each block-row starts as the ridge regression of its outputs on all inputs. Then the block
 * whose removal raises the squared error least is removed, the others take over what they can, and
 * so on until the wanted number is gone. With H the inputs' scatter matrix plus the ridge, w the
 * block-row's transposed weight and B the columns of a block, a removal costs tr(w_Bᵀ [(H⁻¹)_BB]⁻¹
 * w_B) and changes
 *
 * <pre>
 *   w   ← w − (H⁻¹)_:B [(H⁻¹)_BB]⁻¹ w_B
 *   H⁻¹ ← H⁻¹ − (H⁻¹)_:B [(H⁻¹)_BB]⁻¹ (H⁻¹)_B:
 * </pre>
 *
 * <p>which keeps w the exact solution on the columns that are left.
 *
 * @see <a href="https://arxiv.org/abs/2208.11580">Frantar and Alistarh, Optimal Brain Compression,
 *     2022: these formulas, with blocks of weights</a>
 * @see <a href="https://arxiv.org/abs/2301.00774">Frantar and Alistarh, SparseGPT, 2023: layer by
 *     layer reconstruction from calibration text</a>
 */
final class LeastSquaresPruner {

    private static final int[] BLOCK_AXES = {1, 2};

    private final int blockRows;
    private final int blockCols;
    private final double sparsity;
    private final double ridge;

    /**
     * Creates a pruner.
     *
     * @param blockRows the rows of a block
     * @param blockCols the columns of a block
     * @param sparsity the fraction of blocks to remove, at least 0 and less than 1, rounded to a
     *     number of blocks
     * @param ridge the ridge, as a fraction of the mean diagonal element of the scatter matrix
     */
    LeastSquaresPruner(int blockRows, int blockCols, double sparsity, double ridge) {
        if (!(sparsity >= 0 && sparsity < 1)) {
            throw new IllegalArgumentException(
                    "sparsity is " + sparsity + "; use at least 0 and less than 1");
        }
        if (!(ridge > 0)) {
            throw new IllegalArgumentException("ridge is " + ridge + "; use a positive fraction");
        }
        this.blockRows = blockRows;
        this.blockCols = blockCols;
        this.sparsity = sparsity;
        this.ridge = ridge;
    }

    /** A pruned layer: y = weight · x + bias. */
    static final class Result {

        private final BsrMatrix weight;
        private final float[] bias;

        private Result(BsrMatrix weight, float[] bias) {
            this.weight = weight;
            this.bias = bias;
        }

        BsrMatrix weight() {
            return weight;
        }

        float[] bias() {
            return bias.clone();
        }
    }

    /**
     * Fits a block-sparse layer.
     *
     * @param sums the calibration data
     * @param rowWeights what a squared error of each block-row costs: the blocks go where they save
     *     most; or null to keep the same number of blocks in each block-row
     * @param afterBlockRow runs after each block-row, to show progress
     * @return weight, [targets, inputs], and bias
     * @throws IllegalArgumentException if the blocks do not divide the weight
     */
    Result prune(CalibrationSums sums, double[] rowWeights, Runnable afterBlockRow) {
        int rows = sums.getTargets();
        int cols = sums.getInputs();
        BsrMatrix.Builder builder = BsrMatrix.builder(rows, cols, blockRows, blockCols);
        try (NDManager scratch = sums.getManager().newSubManager()) {
            NDArray scatter = sums.scatter();
            NDArray cross = sums.crossScatter();
            scratch.attachAll(scatter, cross);
            NDArray inverse = withRidge(scatter).inverse();
            NDArray solution = inverse.matMul(cross);
            int[] kept = allocate(inverse, solution, rowWeights);
            for (int row = 0; row < kept.length; ++row) {
                try (BlockRow blockRow = new BlockRow(inverse, solution, row)) {
                    while (blockRow.size() > kept[row]) {
                        blockRow.removeCheapest();
                    }
                    blockRow.copyTo(builder);
                }
                afterBlockRow.run();
            }
            BsrMatrix weight = builder.build();
            NDArray dense = weight.toDense(scratch).toType(DataType.FLOAT64, false);
            NDArray bias = sums.bias(dense.transpose()).toType(DataType.FLOAT32, false);
            return new Result(weight, bias.toFloatArray());
        }
    }

    /** Returns how many blocks each block-row keeps. */
    private int[] allocate(NDArray inverse, NDArray solution, double[] rowWeights) {
        int cols = (int) solution.getShape().get(0) / blockCols;
        int[] kept = new int[(int) solution.getShape().get(1) / blockRows];
        if (rowWeights == null) {
            Arrays.fill(kept, cols - (int) Math.round(sparsity * cols));
            return kept;
        }
        // A removal cannot come before the ones that led to it, however cheap it is by then.
        record Removal(int row, double cost) {}
        List<Removal> removals = new ArrayList<>();
        for (int row = 0; row < kept.length; ++row) {
            double highest = 0;
            try (BlockRow blockRow = new BlockRow(inverse, solution, row)) {
                while (blockRow.size() > 0) {
                    highest = Math.max(highest, rowWeights[row] * blockRow.removeCheapest());
                    removals.add(new Removal(row, highest));
                }
            }
        }
        Arrays.fill(kept, cols);
        removals.stream()
                .sorted(Comparator.comparingDouble(Removal::cost))
                .limit(Math.round(sparsity * removals.size()))
                .forEach(removal -> --kept[removal.row]);
        return kept;
    }

    /** Returns how many block-rows a weight has, and so how often {@link #prune} reports. */
    int countBlockRows(int rows) {
        return rows / blockRows;
    }

    /** Sums a value of each row over the block-rows, to make row weights of it. */
    double[] sumByBlockRow(double[] values) {
        double[] sums = new double[countBlockRows(values.length)];
        for (int i = 0; i < values.length; ++i) {
            sums[i / blockRows] += values[i];
        }
        return sums;
    }

    private NDArray withRidge(NDArray scatter) {
        int cols = (int) scatter.getShape().get(0);
        NDArray identity = scatter.getManager().eye(cols, cols, 0, DataType.FLOAT64);
        double meanDiagonal = scatter.mul(identity).sum().getDouble() / cols;
        return scatter.add(identity.mul(ridge * meanDiagonal));
    }

    private static NDArray columns(NDArray matrix, int block, int width) {
        long first = (long) block * width;
        return matrix.get(new NDIndex().addAllDim().addSliceDim(first, first + width));
    }

    /** A block-row in the course of elimination. */
    private final class BlockRow implements AutoCloseable {

        private final NDManager manager;
        private final int row;

        /** The inverse of the ridged scatter matrix of the columns left, [cols, cols]. */
        private final NDArray inverse;

        /** The transposed weight, [cols, blockRows]; only the columns left count. */
        private final NDArray w;

        /** The block-columns left, ascending. */
        private final List<Integer> alive;

        BlockRow(NDArray inverse, NDArray solution, int row) {
            manager = inverse.getManager().newSubManager();
            this.row = row;
            this.inverse = inverse.duplicate();
            w = columns(solution, row, blockRows).duplicate();
            manager.attachAll(this.inverse, w);
            int blocks = (int) inverse.getShape().get(0) / blockCols;
            alive = new ArrayList<>(IntStream.range(0, blocks).boxed().toList());
        }

        int size() {
            return alive.size();
        }

        /** Removes a block and returns by how much that raises the squared error. */
        double removeCheapest() {
            try (NDManager step = manager.newSubManager()) {
                step.tempAttachAll(inverse, w);
                NDArray diagonal = diagonalBlocks().inverse();
                long[] index = alive.stream().mapToLong(Integer::longValue).toArray();
                NDArray parts = w.reshape(-1, blockCols, blockRows).get(step.create(index));
                NDArray costs = parts.mul(diagonal.matMul(parts)).sum(BLOCK_AXES);
                int cheapest = (int) costs.argMin().getLong();
                double cost = costs.getDouble(cheapest);

                NDArray removed = columns(inverse, alive.get(cheapest), blockCols);
                NDArray gain = removed.matMul(diagonal.get(cheapest));
                w.subi(gain.matMul(parts.get(cheapest)));
                inverse.subi(gain.matMul(removed.transpose()));
                alive.remove(cheapest);
                return cost;
            }
        }

        /** Gathers the blocks (j, j) of the inverse, [alive, blockCols, blockCols]. */
        private NDArray diagonalBlocks() {
            long cols = inverse.getShape().get(0);
            long[] index = new long[alive.size() * blockCols * blockCols];
            int next = 0;
            for (int block : alive) {
                long first = (long) block * blockCols;
                for (long i = first; i < first + blockCols; ++i) {
                    for (long j = first; j < first + blockCols; ++j) {
                        index[next++] = i * cols + j;
                    }
                }
            }
            Shape shape = new Shape(alive.size(), blockCols, blockCols);
            return inverse.take(inverse.getManager().create(index)).reshape(shape);
        }

        void copyTo(BsrMatrix.Builder builder) {
            double[] transposed = w.toDoubleArray();
            for (int column : alive) {
                float[] block = new float[blockRows * blockCols];
                for (int i = 0; i < blockRows; ++i) {
                    for (int j = 0; j < blockCols; ++j) {
                        int at = (column * blockCols + j) * blockRows + i;
                        block[i * blockCols + j] = (float) transposed[at];
                    }
                }
                builder.add(row, column, block);
            }
        }

        @Override
        public void close() {
            manager.close();
        }
    }
}
