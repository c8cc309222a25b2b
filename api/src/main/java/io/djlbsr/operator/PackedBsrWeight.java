/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import ai.djl.ndarray.NDArray;
import io.djlbsr.nn.BsrActivation;
import java.util.Optional;

/**
 * A block-sparse weight laid out for one operator, device and data type.
 *
 * <p>{@link #linear} may be called from any number of threads at once; {@link #close} may not run
 * beside it.
 */
public interface PackedBsrWeight extends AutoCloseable {

    /**
     * Computes {@code act(input · Wᵀ + bias)}.
     *
     * @param input the input, shape [..., cols], any strides, on the weight's device and of its
     *     data type
     * @param bias the bias, shape [rows], or null for none
     * @param activation the activation applied to the sum
     * @return the output, shape [..., rows], attached to the input's manager
     * @throws IllegalArgumentException if a shape, data type or device does not fit
     * @throws IllegalStateException if this weight or an array is closed
     */
    NDArray linear(NDArray input, NDArray bias, BsrActivation activation);

    /**
     * Predicts how long {@link #linear} takes, and the dense product that could stand for it.
     *
     * @param tokens the product of the input's leading dimensions
     * @param activation the activation
     * @return the prediction, or empty if this operator has no model of its times, which makes it
     *     the one that runs; so by default
     * @throws IllegalArgumentException if {@code tokens} is negative
     * @throws IllegalStateException if this weight is closed
     */
    default Optional<CostEstimate> estimate(long tokens, BsrActivation activation) {
        return Optional.empty();
    }

    /**
     * Applies an activation to what a dense product computed in place of {@link #linear}.
     *
     * @param sums a fresh result, which may be overwritten
     * @param activation the activation
     * @return the result, which may be {@code sums}, attached to the same manager
     */
    default NDArray activate(NDArray sums, BsrActivation activation) {
        return activation.apply(sums);
    }

    /**
     * Tells whether this weight holds the present values of an array.
     *
     * @param values an array of blocks
     * @return false if it is another array than the one that was packed, or may have been changed
     *     in place since
     */
    boolean isCurrent(NDArray values);

    /**
     * Tells whether {@link #isCurrent} notices values that were changed in place. Where it does
     * not, because this weight refers to the array itself, no copy of the values may be kept beside
     * it.
     *
     * @return true by default
     */
    default boolean noticesChanges() {
        return true;
    }

    /**
     * Returns the memory that the packed form takes on its device, in bytes.
     *
     * @return the size in bytes
     */
    long getPackedBytes();

    /**
     * Tells whether this weight was closed, by {@link #close} or with its manager.
     *
     * @return true if it can no longer be applied
     */
    boolean isReleased();

    /** Frees the packed form. Closing twice does nothing. */
    @Override
    void close();
}
