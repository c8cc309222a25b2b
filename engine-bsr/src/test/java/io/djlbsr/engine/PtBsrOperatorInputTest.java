/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.engine.Engine;
import ai.djl.engine.EngineException;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.pytorch.engine.PtNDArray;
import ai.djl.pytorch.engine.PtNDManager;
import ai.djl.pytorch.jni.JniUtils;
import io.djlbsr.BsrMatrix;
import io.djlbsr.jni.global.DjlBsr;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.operator.PackedBsrWeight;
import java.nio.FloatBuffer;
import java.util.Optional;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

/** Bad input gets an exception that names the argument, what it is and what it must be. */
class PtBsrOperatorInputTest {

    private final Random random = new Random(5);
    private final PtBsrOperator operator = new PtBsrOperator();
    private final BsrMatrix matrix = Pattern.FULL.matrix(2, 3, new int[] {4, 8}, random);
    private NDManager manager;
    private NDArray values;
    private NDArray input;
    private PackedBsrWeight packed;

    @BeforeEach
    void setUp() {
        manager = Engine.getEngine("PyTorch").newBaseManager();
        values = matrix.toValuesArray(manager, DataType.FLOAT32);
        input = manager.ones(new Shape(5, 24));
        packed = operator.pack(manager, matrix.getStructure(), values);
    }

    @AfterEach
    void tearDown() {
        // Whatever was refused before, the weight still works.
        assertEquals(
                new Shape(5, 8),
                packed.linear(manager.ones(new Shape(5, 24)), null, BsrActivation.NONE).getShape());
        manager.close();
    }

    private static void refused(
            Class<? extends RuntimeException> type, Executable call, String... parts) {
        String message = assertThrows(type, call).getMessage();
        for (String part : parts) {
            assertTrue(message.contains(part), part + " is not in: " + message);
        }
    }

    private void inputRefused(NDArray x, String... parts) {
        refused(
                IllegalArgumentException.class,
                () -> packed.linear(x, null, BsrActivation.NONE),
                parts);
    }

    private void biasRefused(NDArray bias, String... parts) {
        refused(
                IllegalArgumentException.class,
                () -> packed.linear(input, bias, BsrActivation.NONE),
                parts);
    }

    @Test
    void inputsOfAnotherShapeTypeOrFormat() {
        inputRefused(manager.ones(new Shape(5, 23)), "input", "(5, 23)", "24");
        inputRefused(manager.ones(new Shape(24, 5)), "input", "(24, 5)", "24");
        inputRefused(manager.create(1f), "input", "()", "24");
        for (DataType type :
                new DataType[] {
                    DataType.FLOAT16,
                    DataType.FLOAT64,
                    DataType.INT32,
                    DataType.INT64,
                    DataType.UINT8,
                    DataType.BOOLEAN
                }) {
            inputRefused(input.toType(type, false), "input", type.toString(), "float32", "toType");
        }
        NDArray coo =
                manager.createCoo(
                        FloatBuffer.wrap(new float[] {1, 2}),
                        new long[][] {{0, 1}, {2, 3}},
                        new Shape(5, 24));
        inputRefused(coo, "input", "sparse", "toDense");
        inputRefused(manager.create(new String[] {"a", "b"}), "input", "strings");
        inputRefused(null, "input", "null");
        refused(
                NullPointerException.class,
                () -> packed.linear(input, null, null),
                "activation",
                "BsrActivation.NONE");
    }

    @Test
    void biasesOfAnotherShapeOrType() {
        biasRefused(manager.ones(new Shape(7)), "bias", "(7)", "(8)");
        biasRefused(manager.ones(new Shape(1, 8)), "bias", "(1, 8)", "(8)");
        biasRefused(manager.ones(new Shape(8), DataType.FLOAT16), "bias", "float16", "float32");
        biasRefused(manager.create(new String[] {"a"}), "bias", "strings");
    }

    @Test
    void valuesThatDoNotFit() {
        for (NDArray wrong :
                new NDArray[] {
                    manager.ones(new Shape(5, 4, 8)), manager.ones(new Shape(6, 8, 4)),
                    manager.ones(new Shape(192)), manager.ones(new Shape(6, 4, 8, 1))
                }) {
            String[] parts = {"values", wrong.getShape().toString(), "(6, 4, 8)"};
            refused(
                    IllegalArgumentException.class,
                    () -> operator.pack(manager, matrix.getStructure(), wrong),
                    parts);
        }
        refused(
                UnsupportedOperationException.class,
                () ->
                        operator.pack(
                                manager,
                                matrix.getStructure(),
                                values.toType(DataType.FLOAT64, false)),
                "float64");
    }

    @Test
    void closedArraysAndManagers() {
        NDArray closed = input.duplicate();
        closed.close();
        refused(
                IllegalStateException.class,
                () -> packed.linear(closed, null, BsrActivation.NONE),
                "input is closed");
        refused(
                IllegalStateException.class,
                () -> packed.linear(input, closed, BsrActivation.NONE),
                "bias is closed");
        refused(
                IllegalStateException.class,
                () -> operator.pack(manager, matrix.getStructure(), closed),
                "values is closed");
        NDManager other = manager.newSubManager();
        other.close();
        refused(
                IllegalStateException.class,
                () -> operator.pack(other, matrix.getStructure(), values),
                "manager",
                "is closed");
        NDManager capped = manager.newSubManager();
        NDArray own = capped.ones(new Shape(5, 24));
        capped.cap();
        refused(
                IllegalStateException.class,
                () -> packed.linear(own, null, BsrActivation.NONE),
                "manager",
                "capped");
    }

    @Test
    void anArrayOfStringsIsNotTakenForValues() {
        NDArray strings = manager.create(new String[] {"a"});
        refused(
                IllegalArgumentException.class,
                () -> operator.pack(manager, matrix.getStructure(), strings),
                "values",
                "strings");
    }

    @Test
    void typesAndDevicesThatItDoesNotServe() {
        for (DataType type : new DataType[] {DataType.BFLOAT16, DataType.FLOAT64, DataType.INT32}) {
            Optional<String> reason = operator.rejectionReason(manager, Device.cpu(), type);
            assertTrue(
                    reason.isPresent() && reason.get().contains(type.toString()), type.toString());
        }
        assertEquals(
                Optional.empty(),
                operator.rejectionReason(manager, Device.cpu(), DataType.FLOAT16));
        assertTrue(
                operator.rejectionReason(manager, Device.of("mps", 0), DataType.FLOAT32)
                        .orElse("")
                        .contains("mps"));
        assertTrue(
                operator.rejectionReason(manager, Device.gpu(1000), DataType.FLOAT32)
                        .orElse("")
                        .contains("gpu(1000)"));
    }

    /** What {@link io.djlbsr.BsrStructure} refuses in Java, native code refuses too. */
    @Test
    void indicesThatReachNativeCodeAreValidated() {
        int[] crow = {0, 3, 6};
        int[] col = {0, 1, 2, 0, 1, 2};
        packRefused(crow, new int[] {0, 2, 1, 0, 1, 2}, 24, "col_indices[2]");
        packRefused(crow, new int[] {0, 1, 1, 0, 1, 2}, 24, "col_indices[2]");
        packRefused(crow, new int[] {0, 1, 3, 0, 1, 2}, 24, "col_indices[2]", "3");
        packRefused(crow, new int[] {-1, 1, 2, 0, 1, 2}, 24, "col_indices[0]", "-1");
        packRefused(new int[] {1, 3, 6}, col, 24, "crow_indices[0]");
        packRefused(new int[] {0, 7, 6}, col, 24, "crow_indices[1]");
        packRefused(new int[] {0, -3, 6}, col, 24, "crow_indices[1]");
        packRefused(new int[] {0, 3, 5}, col, 24, "crow_indices[2]");
        packRefused(new int[] {0, 3, Integer.MAX_VALUE}, col, 24, "crow_indices[2]");
        packRefused(new int[] {}, col, 24, "crow_indices");
        packRefused(crow, new int[] {0, 1, 2, 0, 1}, 24, "col_indices", "5", "6");
        packRefused(crow, col, 23, "23", "8");
        packRefused(crow, col, -24, "-24");
        packRefused(crow, col, Long.MAX_VALUE, "" + Long.MAX_VALUE);
    }

    private void packRefused(int[] crow, int[] col, long inFeatures, String... parts) {
        long[] result = new long[1];
        PtNDArray crowArray = (PtNDArray) manager.create(crow);
        PtNDArray colArray = (PtNDArray) manager.create(col);
        refused(
                IllegalArgumentException.class,
                () ->
                        BsrNative.checkCall(
                                DjlBsr.djlbsr_torch_pack(
                                        crowArray.getHandle(),
                                        colArray.getHandle(),
                                        ((PtNDArray) values).getHandle(),
                                        inFeatures,
                                        DjlBsr.DJLBSR_WEIGHT_AS_GIVEN,
                                        result,
                                        new long[1])),
                parts);
        assertEquals(0, result[0], "nothing is given away");
    }

    @Test
    void truncatedOrForgedPackedTensorsAreRefused() {
        long[] packedHandle = new long[1];
        long[] metaHandle = new long[1];
        BsrNative.checkCall(
                DjlBsr.djlbsr_torch_pack(
                        handle(manager.create(new int[] {0, 3, 6})),
                        handle(manager.create(new int[] {0, 1, 2, 0, 1, 2})),
                        handle(values),
                        24,
                        DjlBsr.DJLBSR_WEIGHT_AS_GIVEN,
                        packedHandle,
                        metaHandle));
        NDArray bytes = PtArrays.adopt((PtNDManager) manager, packedHandle[0]);
        NDArray meta = PtArrays.adopt((PtNDManager) manager, metaHandle[0]);
        assertEquals(DjlBsr.DJLBSR_OK, applyRaw(bytes, meta));
        rawRefused(bytes.get(":10"), meta, "packed", "10");
        rawRefused(bytes.get("1:"), meta, "packed");
        rawRefused(bytes.toType(DataType.INT8, false), meta, "packed", "int8");
        rawRefused(bytes, meta.get(":15"), "meta", "15");
        rawRefused(bytes, manager.zeros(new Shape(16), DataType.INT64), "meta");
        rawRefused(bytes, meta.toType(DataType.INT32, false), "meta", "int32");
        for (int word = 0; word < DjlBsr.DJLBSR_META_WORDS; ++word) {
            long[] forged = meta.toLongArray();
            forged[word] += 1;
            rawRefused(bytes, manager.create(forged));
        }
        refused(
                IllegalArgumentException.class,
                () ->
                        BsrNative.checkCall(
                                DjlBsr.djlbsr_torch_linear(
                                        handle(input), 0, handle(meta), 0, 0, new long[1])),
                "packed",
                "null");
        refused(
                IllegalArgumentException.class,
                () ->
                        BsrNative.checkCall(
                                DjlBsr.djlbsr_torch_linear(
                                        handle(input),
                                        handle(bytes),
                                        handle(meta),
                                        0,
                                        5,
                                        new long[1])),
                "activation",
                "5");
    }

    private void rawRefused(NDArray bytes, NDArray meta, String... parts) {
        refused(
                IllegalArgumentException.class,
                () -> BsrNative.checkCall(applyRaw(bytes, meta)),
                parts);
    }

    private int applyRaw(NDArray bytes, NDArray meta) {
        long[] output = new long[1];
        int status =
                DjlBsr.djlbsr_torch_linear(
                        handle(input), handle(bytes), handle(meta), 0, 0, output);
        if (output[0] != 0) {
            JniUtils.deleteNDArray(output[0]);
        }
        return status;
    }

    private static long handle(NDArray array) {
        return ((PtNDArray) array).getHandle();
    }

    @Test
    void statusesBecomeTheirExceptions() {
        BsrNative.checkCall(DjlBsr.DJLBSR_OK);
        assertThrows(
                UnsupportedOperationException.class,
                () -> BsrNative.checkCall(DjlBsr.DJLBSR_UNSUPPORTED));
        for (int status :
                new int[] {
                    DjlBsr.DJLBSR_OUT_OF_MEMORY, DjlBsr.DJLBSR_CUDA_ERROR, DjlBsr.DJLBSR_TORCH_ERROR
                }) {
            assertThrows(EngineException.class, () -> BsrNative.checkCall(status));
        }
    }
}
