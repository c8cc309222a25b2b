/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import io.djlbsr.BsrStructure;
import java.util.Optional;

/**
 * An implementation of {@code y = act(x · Wᵀ + bias)} for block-sparse {@code W}.
 *
 * <p>Implementations are found through {@link java.util.ServiceLoader} and must have a public
 * constructor without arguments that loads no native code. {@link BsrOperators} asks them in the
 * order of {@link #getRank()} and takes the first that does not reject.
 */
public interface BsrOperator {

    /**
     * Returns a short name for reports, such as {@code pytorch-native}.
     *
     * @return the name
     */
    String getName();

    /**
     * Returns the rank: the operator with the lowest rank that serves an array is taken.
     *
     * @return the rank
     */
    int getRank();

    /**
     * Tells whether this operator serves arrays of a manager's engine on a device in a data type.
     *
     * @param manager a manager of the engine in question
     * @param device the device of weight and input
     * @param dataType the data type of weight and input
     * @return empty if it serves them, else one sentence with the reason and the remedy
     */
    Optional<String> rejectionReason(NDManager manager, Device device, DataType dataType);

    /**
     * Validates a weight and lays it out once for {@link PackedBsrWeight#linear}.
     *
     * @param manager the manager that owns the packed weight and frees it when it closes
     * @param structure the block structure of the weight
     * @param values the blocks, shape [nnzb, blockRows, blockCols], on the device to pack for
     * @return the packed weight
     * @throws IllegalArgumentException if {@code values} does not fit {@code structure}
     * @throws UnsupportedOperationException if this operator rejects the arrays
     */
    PackedBsrWeight pack(NDManager manager, BsrStructure structure, NDArray values);

    /**
     * Validates a weight and lays it out once for {@link PackedBsrWeight#linear}, in a format of
     * its own.
     *
     * <p>This implementation knows {@link BsrWeightFormat#AS_GIVEN} alone.
     *
     * @param manager the manager that owns the packed weight and frees it when it closes
     * @param structure the block structure of the weight
     * @param values the blocks, shape [nnzb, blockRows, blockCols], on the device to pack for
     * @param format how to keep the values
     * @return the packed weight
     * @throws IllegalArgumentException if {@code values} does not fit {@code structure} or {@code
     *     format}
     * @throws UnsupportedOperationException if this operator rejects the arrays, or does not serve
     *     the format for them
     */
    default PackedBsrWeight pack(
            NDManager manager, BsrStructure structure, NDArray values, BsrWeightFormat format) {
        if (format != BsrWeightFormat.AS_GIVEN) {
            throw new UnsupportedOperationException(
                    "the operator "
                            + getName()
                            + " keeps weights as given and does not serve "
                            + format
                            + "; add the artifact io.djlbsr:djl-bsr-engine and use PyTorch on the"
                            + " CPU, or choose BsrWeightFormat.AS_GIVEN");
        }
        return pack(manager, structure, values);
    }
}
