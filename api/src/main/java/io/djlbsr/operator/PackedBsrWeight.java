/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import ai.djl.ndarray.NDArray;
import io.djlbsr.nn.BsrActivation;

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
     * Tells whether this weight holds the present values of an array.
     *
     * @param values an array of blocks
     * @return false if it is another array than the one that was packed, or may have been changed
     *     in place since
     */
    boolean isCurrent(NDArray values);

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
