/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.pytorch.engine.PtNDArray;
import ai.djl.pytorch.engine.PtNDManager;
import io.djlbsr.BsrStructure;
import io.djlbsr.jni.global.DjlBsr;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.CostEstimate;
import io.djlbsr.operator.PackedBsrWeight;
import java.lang.ref.Reference;
import java.lang.ref.WeakReference;
import java.util.Objects;
import java.util.Optional;

/** A packed weight in two tensors, {@code packed} and {@code meta}, of a manager of its own. */
final class PtPackedBsrWeight implements PackedBsrWeight {

    private final BsrStructure structure;
    private final PtNDManager owner;
    private final PtNDArray packed;
    private final PtNDArray meta;
    private final Device device;
    private final DataType dataType;
    private final long packedBytes;
    private final WeakReference<NDArray> source;
    private final long sourceVersion;
    private final BsrWeightFormat format;

    private PtPackedBsrWeight(
            BsrStructure structure,
            PtNDManager owner,
            PtNDArray packed,
            PtNDArray meta,
            PtNDArray values,
            long version,
            BsrWeightFormat format) {
        this.structure = structure;
        this.owner = owner;
        this.packed = packed;
        this.meta = meta;
        device = values.getDevice();
        dataType = values.getDataType();
        packedBytes = packed.size();
        source = new WeakReference<>(values);
        sourceVersion = version;
        this.format = format;
    }

    static PtPackedBsrWeight of(
            PtNDManager manager, BsrStructure structure, PtNDArray values, BsrWeightFormat format) {
        PtArrays.requireLike("values", values, values.getDevice(), values.getDataType());
        PtArrays.requireShape("values", values, valuesShape(structure));
        PtNDManager owner = manager.newSubManager(values.getDevice());
        owner.setName("packed BSR weight");
        // Read first: a change during the packing makes the result outdated, not silently current.
        long version = versionOf(values);
        try (NDManager scratch = owner.newSubManager(Device.cpu())) {
            PtNDArray crow = indices(scratch, structure.getCrowIndices());
            PtNDArray col = indices(scratch, structure.getColIndices());
            long[] packed = new long[1];
            long[] meta = new long[1];
            try {
                BsrNative.checkCall(
                        DjlBsr.djlbsr_torch_pack(
                                crow.getHandle(),
                                col.getHandle(),
                                values.getHandle(),
                                structure.getCols(),
                                format.code(),
                                packed,
                                meta));
            } finally {
                Reference.reachabilityFence(crow);
                Reference.reachabilityFence(col);
                Reference.reachabilityFence(values);
            }
            PtNDArray packedArray = PtArrays.adopt(owner, packed[0]);
            PtNDArray metaArray = PtArrays.adopt(owner, meta[0]);
            // A layer packs during its first call: the scope of that call must not end the weight.
            NDScope.unregister(packedArray, metaArray);
            return new PtPackedBsrWeight(
                    structure, owner, packedArray, metaArray, values, version, format);
        } catch (RuntimeException e) {
            owner.close();
            throw e;
        }
    }

    /** {@inheritDoc} */
    @Override
    public NDArray linear(NDArray input, NDArray bias, BsrActivation activation) {
        requireOpen();
        Objects.requireNonNull(activation, "activation is null; use BsrActivation.NONE");
        PtNDArray x = PtArrays.require("input", input);
        PtArrays.requireDense("input", x);
        PtNDArray b = bias == null ? null : PtArrays.require("bias", bias);
        long[] output = new long[1];
        int status;
        try {
            status =
                    DjlBsr.djlbsr_torch_linear(
                            x.getHandle(),
                            packed.getHandle(),
                            meta.getHandle(),
                            b == null ? 0 : b.getHandle(),
                            activation.code(),
                            output);
        } finally {
            Reference.reachabilityFence(x);
            Reference.reachabilityFence(b);
            Reference.reachabilityFence(packed);
            Reference.reachabilityFence(meta);
        }
        if (status != DjlBsr.DJLBSR_OK) {
            requireFit(x, b);
            BsrNative.checkCall(status);
        }
        return PtArrays.adopt(x.getManager(), output[0]);
    }

    /** {@inheritDoc} */
    @Override
    public NDArray activate(NDArray sums, BsrActivation activation) {
        PtNDArray y = PtArrays.require("sums", sums);
        try {
            BsrNative.checkCall(DjlBsr.djlbsr_torch_activate(y.getHandle(), activation.code()));
        } finally {
            Reference.reachabilityFence(y);
        }
        return y;
    }

    /**
     * {@inheritDoc}
     *
     * <p>On the CPU it is interpolated between the times of {@link CpuProfiles}, which the first
     * call with a data type measures where no call did so before on this machine.
     */
    @Override
    public Optional<CostEstimate> estimate(long tokens, BsrActivation activation) {
        requireOpen();
        // int8 weights are never predicted to be slower than dense: nothing to measure for them.
        if (!device.isGpu() && format == BsrWeightFormat.AS_GIVEN) {
            CpuProfiles.ensure(dataType);
        }
        double[] bsrSeconds = new double[1];
        double[] denseSeconds = new double[1];
        int[] dense = new int[1];
        try {
            BsrNative.checkCall(
                    DjlBsr.djlbsr_torch_predict(
                            packed.getHandle(),
                            meta.getHandle(),
                            tokens,
                            activation.code(),
                            bsrSeconds,
                            denseSeconds,
                            dense));
        } finally {
            Reference.reachabilityFence(packed);
            Reference.reachabilityFence(meta);
        }
        return Optional.of(new CostEstimate(bsrSeconds[0], denseSeconds[0], dense[0] != 0));
    }

    /**
     * {@inheritDoc}
     *
     * <p>Changes are known by PyTorch's in-place version counter. Where PyTorch keeps none the
     * answer is always false: packing again is slow, an outdated weight is wrong. Writes past
     * PyTorch, into a buffer of {@code toByteBuffer(true)}, are not seen.
     */
    @Override
    public boolean isCurrent(NDArray values) {
        if (isReleased() || !source.refersTo(values)) {
            return false;
        }
        long version = versionOf(PtArrays.require("values", values));
        return version >= 0 && version == sourceVersion;
    }

    /** {@inheritDoc} */
    @Override
    public long getPackedBytes() {
        return packedBytes;
    }

    /** {@inheritDoc} */
    @Override
    public boolean isReleased() {
        return !owner.isOpen();
    }

    /** {@inheritDoc} */
    @Override
    public void close() {
        owner.close();
    }

    /** {@inheritDoc} */
    @Override
    public String toString() {
        String weights = format == BsrWeightFormat.AS_GIVEN ? "" : " with weights as " + format;
        return PtBsrOperator.NAME + " " + structure + ", " + dataType + weights + " on " + device;
    }

    private void requireOpen() {
        if (isReleased()) {
            throw new IllegalStateException(
                    "the packed weight is closed, by its close() or with the manager that it was"
                            + " packed for; pack again");
        }
    }

    /** Explains in DJL's terms why native code refused the arrays, if that is their fault. */
    private void requireFit(PtNDArray input, PtNDArray bias) {
        PtArrays.requireLike("input", input, device, dataType);
        Shape shape = input.getShape();
        if (shape.dimension() == 0 || shape.tail() != structure.getCols()) {
            throw new IllegalArgumentException(
                    "input has shape "
                            + shape
                            + "; its last dimension must be the weight's in features, "
                            + structure.getCols());
        }
        if (bias != null) {
            PtArrays.requireLike("bias", bias, device, dataType);
            PtArrays.requireShape("bias", bias, new Shape(structure.getRows()));
        }
    }

    private static Shape valuesShape(BsrStructure structure) {
        return new Shape(structure.getNnzb(), structure.getBlockRows(), structure.getBlockCols());
    }

    private static PtNDArray indices(NDManager manager, int[] indices) {
        return (PtNDArray) manager.create(indices);
    }

    private static long versionOf(PtNDArray values) {
        try {
            return DjlBsr.djlbsr_torch_version_of(values.getHandle());
        } finally {
            Reference.reachabilityFence(values);
        }
    }
}
