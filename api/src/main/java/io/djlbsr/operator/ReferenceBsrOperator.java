/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrStructure;
import java.util.Optional;

/**
 * The operator in plain NDArray operations: any engine, any device, FLOAT16, FLOAT32 and FLOAT64.
 *
 * <p>Its results have gradients for values, input and bias. It expands the values to the dense
 * weight at each call, so that a change of the values in place is always seen, and multiplies
 * densely, which is the fastest that NDArray operations can do. Where the input holds NaN or Inf,
 * which a dense product would spread to rows whose blocks do not touch them, it multiplies each
 * block-row with the input columns of its blocks alone.
 */
public final class ReferenceBsrOperator implements BsrOperator {

    /** The name of this operator. */
    public static final String NAME = "reference";

    /** What a Java array can hold. */
    private static final int MAX_CELLS = Integer.MAX_VALUE - 8;

    /** Constructs the operator. */
    public ReferenceBsrOperator() {}

    /** {@inheritDoc} */
    @Override
    public String getName() {
        return NAME;
    }

    /** {@inheritDoc} */
    @Override
    public int getRank() {
        return Integer.MAX_VALUE;
    }

    /** {@inheritDoc} */
    @Override
    public Optional<String> rejectionReason(NDManager manager, Device device, DataType dataType) {
        if (isServed(dataType)) {
            return Optional.empty();
        }
        return Optional.of(
                "data type " + dataType + " is not served; use FLOAT16, FLOAT32 or FLOAT64");
    }

    private static boolean isServed(DataType dataType) {
        return dataType == DataType.FLOAT16
                || dataType == DataType.FLOAT32
                || dataType == DataType.FLOAT64;
    }

    /**
     * Checks that weights can have a data type.
     *
     * <p>DJL 0.35 aborts the JVM when it meets BFLOAT16, so this must come before any array.
     *
     * @param name the argument's name for the message
     * @param dataType the data type
     * @throws UnsupportedOperationException if it is not FLOAT16, FLOAT32 or FLOAT64
     */
    public static void checkDataType(String name, DataType dataType) {
        if (!isServed(dataType)) {
            throw new UnsupportedOperationException(
                    name + " is " + dataType + "; use FLOAT16, FLOAT32 or FLOAT64");
        }
    }

    /** {@inheritDoc} */
    @Override
    public PackedBsrWeight pack(NDManager manager, BsrStructure structure, NDArray values) {
        checkDataType("values", values.getDataType());
        checkValues(structure, values);
        return new ReferenceBsrWeight(manager, structure, values);
    }

    /**
     * Expands blocks to the dense weight, with gradients for the blocks.
     *
     * @param manager the manager of the result
     * @param structure the block structure
     * @param values the blocks, shape [nnzb, blockRows, blockCols]
     * @return the weight, shape [rows, cols], zero outside the blocks
     * @throws IllegalArgumentException if {@code values} does not fit {@code structure}
     */
    public static NDArray toDense(NDManager manager, BsrStructure structure, NDArray values) {
        checkValues(structure, values);
        try (NDManager scope = manager.newSubManager(values.getDevice())) {
            NDArray dense = expand(scope, structure, blockMap(scope, structure), values);
            dense.attach(manager);
            return dense;
        }
    }

    /**
     * Takes the blocks of a structure out of a dense weight.
     *
     * @param manager the manager of the result
     * @param structure the block structure
     * @param dense the weight, shape [rows, cols]
     * @return the blocks, shape [nnzb, blockRows, blockCols]
     * @throws IllegalArgumentException if {@code dense} does not fit {@code structure}
     */
    public static NDArray fromDense(NDManager manager, BsrStructure structure, NDArray dense) {
        Shape expected = new Shape(structure.getRows(), structure.getCols());
        if (!dense.getShape().equals(expected)) {
            throw new IllegalArgumentException(
                    "dense has shape " + dense.getShape() + "; the structure needs " + expected);
        }
        Shape shape = valuesShape(structure);
        if (structure.getNnzb() == 0) {
            return zeros(manager, shape, dense);
        }
        int blockColCount = structure.getBlockColCount();
        long[] blocks = new long[structure.getNnzb()];
        for (int i = 0; i < structure.getBlockRowCount(); i++) {
            for (int k = structure.crow(i); k < structure.crow(i + 1); k++) {
                blocks[k] = (long) i * blockColCount + structure.col(k);
            }
        }
        try (NDManager scope = manager.newSubManager(dense.getDevice())) {
            NDArray grid =
                    attached(
                                    scope,
                                    dense.reshape(
                                            structure.getBlockRowCount(),
                                            structure.getBlockRows(),
                                            blockColCount,
                                            structure.getBlockCols()))
                            .transpose(0, 2, 1, 3)
                            .reshape(
                                    (long) structure.getBlockRowCount() * blockColCount,
                                    structure.getBlockRows(),
                                    structure.getBlockCols());
            NDArray values = grid.get(scope.create(blocks));
            values.attach(manager);
            return values;
        }
    }

    static void checkValues(BsrStructure structure, NDArray values) {
        Shape shape = valuesShape(structure);
        if (!values.getShape().equals(shape)) {
            throw new IllegalArgumentException(
                    "values has shape "
                            + values.getShape()
                            + "; the structure needs [nnzb, blockRows, blockCols] = "
                            + shape);
        }
    }

    /**
     * Returns the shape of the blocks of a structure.
     *
     * @param structure the block structure
     * @return [nnzb, blockRows, blockCols]
     */
    public static Shape valuesShape(BsrStructure structure) {
        return new Shape(structure.getNnzb(), structure.getBlockRows(), structure.getBlockCols());
    }

    /** For each cell of the block grid 0 if it is empty, else 1 + the number of its block. */
    static NDArray blockMap(NDManager manager, BsrStructure structure) {
        int blockColCount = structure.getBlockColCount();
        long cells = (long) structure.getBlockRowCount() * blockColCount;
        if (cells > MAX_CELLS) {
            throw new UnsupportedOperationException(
                    "the weight has a grid of "
                            + cells
                            + " blocks; the reference operator serves up to "
                            + MAX_CELLS
                            + ": use larger blocks or another operator");
        }
        long[] map = new long[(int) cells];
        for (int i = 0; i < structure.getBlockRowCount(); i++) {
            for (int k = structure.crow(i); k < structure.crow(i + 1); k++) {
                map[i * blockColCount + structure.col(k)] = k + 1L;
            }
        }
        NDArray array = manager.create(map);
        // A scope that happens to be open must not free what outlives it.
        NDScope.unregister(array);
        return array;
    }

    static NDArray expand(
            NDManager scope, BsrStructure structure, NDArray blockMap, NDArray values) {
        Shape shape = new Shape(structure.getRows(), structure.getCols());
        if (structure.getNnzb() == 0) {
            return zeros(scope, shape, values);
        }
        // The zeros stand first so that every intermediate belongs to the scope and not to the
        // manager of the values, where it would stay.
        NDArray zeros =
                zeros(
                        scope,
                        new Shape(1, structure.getBlockRows(), structure.getBlockCols()),
                        values);
        return zeros.concat(values)
                .get(blockMap)
                .reshape(
                        structure.getBlockRowCount(),
                        structure.getBlockColCount(),
                        structure.getBlockRows(),
                        structure.getBlockCols())
                .transpose(0, 2, 1, 3)
                .reshape(shape);
    }

    static NDArray zeros(NDManager manager, Shape shape, NDArray like) {
        return manager.zeros(shape, like.getDataType(), like.getDevice());
    }

    /** Moves a fresh result of an operation from its operand's manager to another. */
    static NDArray attached(NDManager manager, NDArray array) {
        array.attach(manager);
        return array;
    }
}
