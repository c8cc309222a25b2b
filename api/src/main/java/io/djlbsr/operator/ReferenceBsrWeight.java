/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import static io.djlbsr.operator.ReferenceBsrOperator.attached;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDArrays;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.index.NDIndex;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.core.Linear;
import io.djlbsr.BsrStructure;
import io.djlbsr.nn.BsrActivation;

/** Refers to the values, and holds only the index that expands them. */
final class ReferenceBsrWeight implements PackedBsrWeight {

    private final BsrStructure structure;
    private final NDArray blockMap;
    private final NDArray values;

    ReferenceBsrWeight(NDManager manager, BsrStructure structure, NDArray values) {
        this.structure = structure;
        this.values = values;
        try (NDManager device = manager.newSubManager(values.getDevice())) {
            blockMap = attached(manager, ReferenceBsrOperator.blockMap(device, structure));
        }
    }

    /** {@inheritDoc} */
    @Override
    public NDArray linear(NDArray input, NDArray bias, BsrActivation activation) {
        NDArray blocks = values;
        if (isReleased() || blocks.isReleased()) {
            throw new IllegalStateException("the block-sparse weight is closed; pack it again");
        }
        checkInput(input, blocks);
        if (bias != null) {
            checkBias(bias, blocks);
        }
        try (NDManager scope = input.getManager().newSubManager(input.getDevice())) {
            NDArray sum;
            if (isFinite(scope, input)) {
                NDArray dense = ReferenceBsrOperator.expand(scope, structure, blockMap, blocks);
                sum = attached(scope, Linear.linear(input, dense, bias).singletonOrThrow());
            } else {
                sum = linearByRows(scope, input, blocks);
                sum = bias == null ? sum : sum.add(bias);
            }
            return attached(input.getManager(), activation.apply(sum));
        }
    }

    private void checkInput(NDArray input, NDArray blocks) {
        Shape shape = input.getShape();
        if (shape.dimension() == 0 || shape.get(shape.dimension() - 1) != structure.getCols()) {
            throw new IllegalArgumentException(
                    "input has shape "
                            + shape
                            + "; its last dimension must be the weight's "
                            + structure.getCols()
                            + " columns");
        }
        checkSame("input", input, blocks);
    }

    private void checkBias(NDArray bias, NDArray blocks) {
        Shape shape = new Shape(structure.getRows());
        if (!bias.getShape().equals(shape)) {
            throw new IllegalArgumentException(
                    "bias has shape " + bias.getShape() + "; the weight needs " + shape);
        }
        checkSame("bias", bias, blocks);
    }

    private static void checkSame(String name, NDArray array, NDArray blocks) {
        if (array.getDataType() != blocks.getDataType()) {
            throw new IllegalArgumentException(
                    name
                            + " is "
                            + array.getDataType()
                            + ", but the weight is "
                            + blocks.getDataType()
                            + "; convert one with toType");
        }
        if (!array.getDevice().equals(blocks.getDevice())) {
            throw new IllegalArgumentException(
                    name
                            + " is on "
                            + array.getDevice()
                            + ", but the weight is on "
                            + blocks.getDevice()
                            + "; move one with toDevice");
        }
    }

    /** Zero times a finite number is 0, and times NaN or Inf NaN, which the sum then is. */
    private static boolean isFinite(NDManager scope, NDArray input) {
        NDArray sum = attached(scope, attached(scope, input.mul(0)).sum());
        return sum.toType(DataType.FLOAT32, false).getFloat() == 0f;
    }

    private NDArray linearByRows(NDManager scope, NDArray input, NDArray blocks) {
        Shape leading = input.getShape().slice(0, input.getShape().dimension() - 1);
        if (structure.getNnzb() == 0) {
            return ReferenceBsrOperator.zeros(scope, leading.add(structure.getRows()), input);
        }
        long tokens = leading.size();
        NDArray columns =
                attached(
                                scope,
                                input.reshape(
                                        tokens,
                                        structure.getBlockColCount(),
                                        structure.getBlockCols()))
                        .transpose(1, 0, 2);
        NDList rows = new NDList(structure.getBlockRowCount());
        for (int i = 0; i < structure.getBlockRowCount(); i++) {
            try (NDManager row = scope.newSubManager()) {
                NDArray y = blockRow(row, columns, blocks, i, tokens);
                rows.add(attached(scope, y));
            }
        }
        return NDArrays.concat(rows, 1).reshape(leading.add(structure.getRows()));
    }

    /** Multiplies columns, [blockColCount, tokens, blockCols], with the blocks of a block-row. */
    private NDArray blockRow(NDManager scope, NDArray columns, NDArray blocks, int i, long tokens) {
        int begin = structure.crow(i);
        int end = structure.crow(i + 1);
        int blockRows = structure.getBlockRows();
        if (begin == end) {
            return ReferenceBsrOperator.zeros(scope, new Shape(tokens, blockRows), columns);
        }
        long[] cols = new long[end - begin];
        for (int k = begin; k < end; k++) {
            cols[k - begin] = structure.col(k);
        }
        long width = (long) cols.length * structure.getBlockCols();
        NDArray x =
                columns.get(scope, new NDIndex("{}", scope.create(cols)))
                        .transpose(1, 0, 2)
                        .reshape(tokens, width);
        NDArray w =
                blocks.get(scope, new NDIndex("{}:{}", begin, end))
                        .transpose(1, 0, 2)
                        .reshape(blockRows, width);
        return Linear.linear(x, w).singletonOrThrow();
    }

    /** {@inheritDoc} */
    @Override
    public boolean noticesChanges() {
        return false;
    }

    /** {@inheritDoc} */
    @Override
    public boolean isCurrent(NDArray array) {
        return array == values;
    }

    /** {@inheritDoc} */
    @Override
    public long getPackedBytes() {
        return blockMap.size() * Long.BYTES;
    }

    /** {@inheritDoc} */
    @Override
    public boolean isReleased() {
        return blockMap.isReleased();
    }

    /** {@inheritDoc} */
    @Override
    public void close() {
        blockMap.close();
    }
}
