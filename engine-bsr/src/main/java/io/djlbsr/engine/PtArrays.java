/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.ndarray.types.SparseFormat;
import ai.djl.pytorch.engine.PtNDArray;
import ai.djl.pytorch.engine.PtNDManager;
import ai.djl.pytorch.jni.JniUtils;

/** Checks of NDArrays on their way to native code, and the way back of its tensors. */
final class PtArrays {

    /** What a PtNDArray of strings has for a tensor. */
    private static final long NO_TENSOR = -1;

    private PtArrays() {}

    /**
     * Returns the array as one that has a tensor.
     *
     * @throws IllegalArgumentException if it is of another engine or holds strings
     * @throws IllegalStateException if it is closed
     */
    static PtNDArray require(String name, NDArray array) {
        if (!(array instanceof PtNDArray tensor)) {
            throw new IllegalArgumentException(
                    name
                            + (array == null
                                    ? " is null"
                                    : " is a " + array.getClass().getSimpleName())
                            + "; give an NDArray of the engine PyTorch");
        }
        requireOpen(name, array);
        if (tensor.getHandle() == NO_TENSOR) {
            throw new IllegalArgumentException(name + " holds strings; give float32 or float16");
        }
        return tensor;
    }

    static void requireOpen(String name, NDArray array) {
        if (array.isReleased()) {
            throw new IllegalStateException(
                    name + " is closed, by its close() or with its manager; use it before that");
        }
    }

    /** Throws if an array is sparse; PyTorch prints a stack trace where native code finds that. */
    static void requireDense(String name, NDArray array) {
        if (array.getSparseFormat() != SparseFormat.DENSE) {
            throw new IllegalArgumentException(
                    name
                            + " has the sparse format "
                            + array.getSparseFormat()
                            + "; convert it with toDense()");
        }
    }

    /**
     * Throws if an array does not have a weight's device and data type or is not dense.
     *
     * @throws IllegalArgumentException with both and the remedy
     */
    static void requireLike(String name, NDArray array, Device device, DataType dataType) {
        requireDense(name, array);
        if (array.getDataType() != dataType) {
            throw new IllegalArgumentException(
                    name
                            + " is "
                            + array.getDataType()
                            + " but the packed weight is "
                            + dataType
                            + "; convert it with toType(DataType."
                            + dataType.name()
                            + ", false)");
        }
        if (!array.getDevice().equals(device)) {
            throw new IllegalArgumentException(
                    name
                            + " is on "
                            + array.getDevice()
                            + " but the packed weight is on "
                            + device
                            + "; move it with toDevice, or pack the weight for that device");
        }
    }

    /** Throws if an array does not have a shape. */
    static void requireShape(String name, NDArray array, Shape expected) {
        if (!array.getShape().equals(expected)) {
            throw new IllegalArgumentException(
                    name + " has shape " + array.getShape() + "; it must be " + expected);
        }
    }

    /**
     * Makes a tensor that native code gave away an NDArray of a manager.
     *
     * @throws IllegalStateException if the manager takes no more arrays; the tensor is freed
     */
    static PtNDArray adopt(PtNDManager manager, long tensor) {
        try {
            return new PtNDArray(manager, tensor);
        } catch (IllegalStateException e) {
            JniUtils.deleteNDArray(tensor);
            throw new IllegalStateException(
                    "manager "
                            + manager.getName()
                            + " is closed or capped and cannot own the result: "
                            + e.getMessage(),
                    e);
        }
    }
}
