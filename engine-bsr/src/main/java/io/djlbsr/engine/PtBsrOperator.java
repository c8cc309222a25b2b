/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.pytorch.engine.PtNDArray;
import ai.djl.pytorch.engine.PtNDManager;
import io.djlbsr.BsrStructure;
import io.djlbsr.jni.global.DjlBsr;
import io.djlbsr.operator.BsrOperator;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.PackedBsrWeight;
import java.util.Objects;
import java.util.Optional;

/**
 * The native operator for float32 and float16 NDArrays of the PyTorch engine, on the CPU and on
 * CUDA devices.
 *
 * <p>It works on PyTorch's own memory and streams: nothing is copied but what {@link #pack} lays
 * out, and nothing is synchronized. float16 is summed in float32. The number of CPU threads is
 * PyTorch's, which {@code ai.djl.pytorch.num_threads} sets.
 */
public final class PtBsrOperator implements BsrOperator {

    static final String NAME = "pytorch-native";
    private static final int RANK = 10;

    /** Constructs the operator; loads nothing. */
    public PtBsrOperator() {}

    /** {@inheritDoc} */
    @Override
    public String getName() {
        return NAME;
    }

    /** {@inheritDoc} */
    @Override
    public int getRank() {
        return RANK;
    }

    /** {@inheritDoc} */
    @Override
    public Optional<String> rejectionReason(NDManager manager, Device device, DataType dataType) {
        if (!(manager instanceof PtNDManager)) {
            return Optional.of(
                    "it works on arrays of the engine PyTorch, not of "
                            + manager.getEngine().getEngineName()
                            + "; load the model with engine PyTorch or BSR");
        }
        if (dataType != DataType.FLOAT32 && dataType != DataType.FLOAT16) {
            return Optional.of(
                    "it works on float32 and float16, not on "
                            + dataType
                            + "; convert the model to one of them");
        }
        if (!device.getDeviceType().equals(Device.Type.CPU) && !device.isGpu()) {
            return Optional.of(
                    "it works on cpu and gpu, not on "
                            + device.getDeviceType()
                            + "; move the model");
        }
        Optional<String> unavailable = BsrNative.unavailable();
        if (unavailable.isEmpty()
                && device.isGpu()
                && device.getDeviceId() >= DjlBsr.djlbsr_cuda_device_count()) {
            return Optional.of(
                    "libdjlbsr can use "
                            + DjlBsr.djlbsr_cuda_device_count()
                            + " CUDA devices and "
                            + device
                            + " is not one of them; BsrDebug.report() tells why");
        }
        return unavailable;
    }

    /**
     * {@inheritDoc}
     *
     * <p>The packed weight is owned by a child of {@code manager} and does not belong to an open
     * {@link ai.djl.ndarray.NDScope}.
     *
     * @throws IllegalStateException if {@code manager} or {@code values} is closed
     */
    @Override
    public PackedBsrWeight pack(NDManager manager, BsrStructure structure, NDArray values) {
        return pack(manager, structure, values, BsrWeightFormat.AS_GIVEN);
    }

    /**
     * {@inheritDoc}
     *
     * <p>{@link BsrWeightFormat#INT8} is served for FLOAT32 on the CPU. As in {@link
     * #pack(NDManager, BsrStructure, NDArray)} a child of {@code manager} owns the result.
     *
     * @throws IllegalStateException if {@code manager} or {@code values} is closed
     */
    @Override
    public PackedBsrWeight pack(
            NDManager manager, BsrStructure structure, NDArray values, BsrWeightFormat format) {
        Objects.requireNonNull(format, "format is null; use BsrWeightFormat.AS_GIVEN");
        if (!manager.isOpen()) {
            throw new IllegalStateException(
                    "manager " + manager.getName() + " is closed; give pack an open one");
        }
        PtNDArray tensor = PtArrays.require("values", values);
        rejectionReason(manager, tensor.getDevice(), tensor.getDataType())
                .ifPresent(
                        reason -> {
                            throw new UnsupportedOperationException(
                                    "The operator " + NAME + " cannot pack values: " + reason);
                        });
        return PtPackedBsrWeight.of((PtNDManager) manager, structure, tensor, format);
    }
}
