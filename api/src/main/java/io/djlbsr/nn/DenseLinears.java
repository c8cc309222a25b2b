/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import ai.djl.training.initializer.Initializer;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.util.Objects;

/** Conversions between {@link Linear} and {@link BsrLinear}, in the data type of the arrays. */
final class DenseLinears {

    private DenseLinears() {}

    static BsrLinear toBsr(Linear dense, int blockRows, int blockCols, float tolerance) {
        NDArray weight = weightOf(dense);
        BsrStructure structure = structureOf(weight, blockRows, blockCols, tolerance);
        return toBsr(dense, structure, BsrWeightFormat.AS_GIVEN);
    }

    /** Takes the blocks of a structure in the weight's data type. */
    static BsrLinear toBsr(Linear dense, BsrStructure structure, BsrWeightFormat format) {
        NDArray weight = weightOf(dense);
        try (NDArray constant = weight.stopGradient()) {
            NDArray values =
                    ReferenceBsrOperator.fromDense(weight.getManager(), structure, constant);
            return toBsr(dense, structure, values, format);
        }
    }

    static BsrLinear toBsr(Linear dense, BsrMatrix matrix) {
        Objects.requireNonNull(matrix, "matrix is null; give the new weight");
        NDArray weight = weightOf(dense);
        BsrStructure structure = matrix.getStructure();
        Shape shape = new Shape(structure.getRows(), structure.getCols());
        if (!weight.getShape().equals(shape)) {
            throw new IllegalArgumentException(
                    "matrix is "
                            + shape
                            + ", but the weight of the Linear is "
                            + weight.getShape());
        }
        NDManager manager = weight.getManager();
        try (NDManager scope = manager.newSubManager(weight.getDevice())) {
            NDArray values = matrix.toValuesArray(scope, weight.getDataType());
            values.attach(manager);
            return toBsr(dense, structure, values, BsrWeightFormat.AS_GIVEN);
        }
    }

    private static BsrLinear toBsr(
            Linear dense, BsrStructure structure, NDArray values, BsrWeightFormat format) {
        Parameter denseBias = dense.getDirectParameters().get("bias");
        BsrLinear result =
                BsrLinear.builder()
                        .setStructure(structure)
                        .optBias(denseBias != null)
                        .optWeightFormat(format)
                        .build();
        adopt(result, "weight", dense, values);
        if (denseBias != null) {
            try (NDArray constant = denseBias.getArray().stopGradient()) {
                adopt(result, "bias", dense, constant.duplicate());
            }
        }
        if (dense.isInitialized()) {
            result.setInputShape(dense.describeInput().valueAt(0));
        }
        return result;
    }

    private static void adopt(BsrLinear result, String name, Linear dense, NDArray array) {
        Parameter from = dense.getDirectParameters().get(name);
        Parameter to = result.getDirectParameters().get(name);
        setArray(to, array);
        to.setInitializer(from.getInitializer());
        to.freeze(!from.requiresGradient());
        array.setRequiresGradient(from.getArray().hasGradient());
    }

    static Linear toDense(BsrLinear layer, NDManager manager) {
        BsrStructure structure = layer.getStructure();
        Parameter bias = layer.getDirectParameters().get("bias");
        Linear dense = Linear.builder().setUnits(structure.getRows()).optBias(bias != null).build();
        NDArray values = layer.getDirectParameters().get("weight").getArray();
        try (NDManager scope = manager.newSubManager(values.getDevice())) {
            NDArray constant = values.stopGradient();
            constant.attach(scope);
            NDArray weight = ReferenceBsrOperator.toDense(manager, structure, constant);
            dense.getDirectParameters().get("weight").setArray(weight);
            if (bias != null) {
                NDArray copy = bias.getArray().stopGradient();
                copy.attach(scope);
                copy = copy.duplicate();
                copy.attach(manager);
                dense.getDirectParameters().get("bias").setArray(copy);
            }
        }
        for (Parameter parameter : dense.getDirectParameters().values()) {
            Parameter from = layer.getDirectParameters().get(parameter.getName());
            parameter.freeze(!from.requiresGradient());
        }
        dense.initialize(manager, values.getDataType(), new Shape(-1, structure.getCols()));
        return dense;
    }

    /** Returns the array of the weight of a layer, dense or not, after checking all arrays. */
    static NDArray weightOf(Linear layer) {
        Objects.requireNonNull(layer, "dense is null; give the Linear to convert");
        for (Parameter parameter : layer.getDirectParameters().values()) {
            if (!parameter.isInitialized()) {
                throw new IllegalStateException(
                        "the layer has no arrays yet; call initialize or loadParameters first");
            }
            ReferenceBsrOperator.checkDataType(
                    parameter.getName(), parameter.getArray().getDataType());
        }
        return layer.getDirectParameters().get("weight").getArray();
    }

    /** Asks an initializer, which derives its scale from the shape, for the dense shape. */
    static NDArray initialValues(
            NDManager manager, BsrStructure structure, Initializer initializer, DataType dataType) {
        if (initializer == null) {
            throw new IllegalStateException(
                    "weight has no initializer; set one with setInitializer");
        }
        Shape shape = new Shape(structure.getRows(), structure.getCols());
        try (NDArray dense = initializer.initialize(manager, shape, dataType)) {
            return ReferenceBsrOperator.fromDense(manager, structure, dense);
        }
    }

    /** Compares in the weight's own data type, so that no element is lost to rounding. */
    static BsrStructure structureOf(NDArray dense, int blockRows, int blockCols, float tolerance) {
        if (!(tolerance >= 0)) {
            throw new IllegalArgumentException(
                    "tolerance is " + tolerance + "; use a number that is not negative");
        }
        try (NDManager scope = dense.getManager().newSubManager(dense.getDevice())) {
            NDArray wide = dense.stopGradient();
            wide.attach(scope);
            if (wide.getDataType() == DataType.FLOAT16) {
                wide = wide.toType(DataType.FLOAT32, false);
            }
            NDArray kept = wide.abs().lte(tolerance).logicalNot();
            return BsrMatrix.fromDense(
                            kept.toType(DataType.FLOAT32, false), blockRows, blockCols, 0)
                    .getStructure();
        }
    }

    /** Sets the array of a parameter that has none, whatever shape it was prepared for. */
    static void setArray(Parameter parameter, NDArray array) {
        parameter.setShape(null);
        parameter.setArray(array);
    }

    static NDArray create(NDManager manager, double[] values, DataType dataType) {
        NDArray wide = manager.create(values);
        if (dataType == DataType.FLOAT64) {
            return wide;
        }
        try (wide) {
            return wide.toType(dataType, false);
        }
    }
}
