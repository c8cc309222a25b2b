/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.ndarray.types.SparseFormat;
import ai.djl.nn.core.Linear;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.util.function.UnaryOperator;

/** The densified form of an array of blocks, in a manager of its own. */
final class DenseWeight implements AutoCloseable {

    private final NDManager owner;
    private final NDArray weight;

    private DenseWeight(NDManager owner, NDArray weight) {
        this.owner = owner;
        this.weight = weight;
    }

    static DenseWeight of(BsrStructure structure, NDArray values) {
        NDManager owner = values.getManager().newSubManager(values.getDevice());
        owner.setName("densified BSR weight");
        try (NDManager scope = owner.newSubManager()) {
            NDArray constant = values.stopGradient();
            constant.attach(scope);
            NDArray weight = ReferenceBsrOperator.toDense(owner, structure, constant);
            // A layer densifies during a call: the scope of that call must not end the weight.
            NDScope.unregister(weight);
            return new DenseWeight(owner, weight);
        } catch (RuntimeException e) {
            owner.close();
            throw e;
        }
    }

    static long bytes(BsrStructure structure, DataType dataType) {
        return (long) structure.getRows() * structure.getCols() * dataType.getNumOfBytes();
    }

    /** Whether a dense product takes the input; what it does not take, an operator explains. */
    static boolean accepts(BsrStructure structure, NDArray values, NDArray input) {
        Shape shape = input.getShape();
        return shape.dimension() > 0
                && shape.get(shape.dimension() - 1) == structure.getCols()
                && input.getDataType() == values.getDataType()
                && input.getDevice().equals(values.getDevice())
                && input.getSparseFormat() == SparseFormat.DENSE;
    }

    /** Computes {@code act(input · Wᵀ + bias)}; {@code activate} applies the activation. */
    NDArray linear(
            NDArray input,
            NDArray bias,
            BsrActivation activation,
            UnaryOperator<NDArray> activate) {
        NDArray sum = Linear.linear(input, weight, bias).singletonOrThrow();
        if (activation == BsrActivation.NONE) {
            return sum;
        }
        NDManager manager = input.getManager();
        try (NDManager scope = manager.newSubManager(input.getDevice())) {
            sum.attach(scope);
            NDArray result = activate.apply(sum);
            result.attach(manager);
            return result;
        }
    }

    boolean isReleased() {
        return weight.isReleased();
    }

    @Override
    public void close() {
        owner.close();
    }
}
