/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;

/**
 * What a least-squares fit {@code target ≈ W · input + bias} needs to know of its data: first and
 * second moments, summed over any number of batches in FLOAT64.
 */
final class CalibrationSums implements AutoCloseable {

    private static final int[] ROWS = {0};

    private final NDManager manager;
    private final int inputs;
    private final int targets;
    private final NDArray inputSum;
    private final NDArray targetSum;
    private final NDArray inputProducts;
    private final NDArray crossProducts;
    private long count;

    /**
     * Creates empty sums.
     *
     * @param parent the manager under which they live
     * @param inputs the number of input features
     * @param targets the number of target features
     */
    CalibrationSums(NDManager parent, int inputs, int targets) {
        manager = parent.newSubManager();
        this.inputs = inputs;
        this.targets = targets;
        inputSum = manager.zeros(new Shape(inputs), DataType.FLOAT64);
        targetSum = manager.zeros(new Shape(targets), DataType.FLOAT64);
        inputProducts = manager.zeros(new Shape(inputs, inputs), DataType.FLOAT64);
        crossProducts = manager.zeros(new Shape(inputs, targets), DataType.FLOAT64);
    }

    /**
     * Adds samples.
     *
     * @param x the inputs, [..., inputs], FLOAT32
     * @param y the targets, [..., targets], FLOAT32
     */
    void add(NDArray x, NDArray y) {
        try (NDManager scratch = manager.newSubManager()) {
            NDArray rows = x.reshape(-1, inputs);
            NDArray wanted = y.reshape(-1, targets);
            NDArray transposed = rows.transpose();
            rows.attach(scratch);
            wanted.attach(scratch);
            transposed.attach(scratch);
            // A batch is small enough to multiply in FLOAT32; the long sum is the delicate part.
            accumulate(inputSum, rows.sum(ROWS));
            accumulate(targetSum, wanted.sum(ROWS));
            accumulate(inputProducts, transposed.matMul(rows));
            accumulate(crossProducts, transposed.matMul(wanted));
            count += rows.getShape().get(0);
        }
    }

    private static void accumulate(NDArray sum, NDArray term) {
        try (NDArray single = term;
                NDArray wide = single.toType(DataType.FLOAT64, false)) {
            sum.addi(wide);
        }
    }

    /** Returns the inputs' scatter matrix Σ(x − x̄)(x − x̄)ᵀ, [inputs, inputs]. */
    NDArray scatter() {
        return inputProducts.sub(outer(inputSum, inputSum));
    }

    /** Returns the cross-scatter matrix Σ(x − x̄)(y − ȳ)ᵀ, [inputs, targets]. */
    NDArray crossScatter() {
        return crossProducts.sub(outer(inputSum, targetSum));
    }

    private NDArray outer(NDArray a, NDArray b) {
        return a.reshape(-1, 1).matMul(b.reshape(1, -1)).div(count);
    }

    /**
     * Returns the bias that goes with a weight: ȳ − W · x̄.
     *
     * @param weight the weight, [inputs, targets], FLOAT64
     */
    NDArray bias(NDArray weight) {
        return targetSum.sub(inputSum.reshape(1, -1).matMul(weight).reshape(-1)).div(count);
    }

    NDManager getManager() {
        return manager;
    }

    int getInputs() {
        return inputs;
    }

    int getTargets() {
        return targets;
    }

    long getCount() {
        return count;
    }

    @Override
    public void close() {
        manager.close();
    }
}
