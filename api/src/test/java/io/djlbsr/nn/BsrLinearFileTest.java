/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.MalformedModelException;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class BsrLinearFileTest {

    private final NDManager manager = NDManager.newBaseManager();
    private final Random random = new Random(23);

    @AfterEach
    void close() {
        manager.close();
    }

    private static byte[] save(Block block) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        block.saveParameters(new DataOutputStream(bytes));
        return bytes.toByteArray();
    }

    private void load(Block block, byte[] bytes) throws IOException, MalformedModelException {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(bytes));
        block.loadParameters(manager, in);
        assertEquals(-1, in.read(), "all bytes belong to the layer");
    }

    private String refused(Block block, byte[] bytes) {
        return assertThrows(MalformedModelException.class, () -> load(block, bytes)).getMessage();
    }

    private BsrLinear layer(DataType type, boolean bias) {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 4, 3, 0.5);
        BsrLinear.Builder builder =
                BsrLinear.builder().setMatrix(w).optActivation(BsrActivation.SILU);
        BsrLinear layer =
                (bias ? builder.optBias(LinearOracle.normal(random, 8)) : builder.optBias(false))
                        .build();
        layer.initialize(manager, type, new Shape(2, 5, 12));
        return layer;
    }

    private static void assertSame(BsrLinear expected, BsrLinear actual) {
        assertEquals(expected.getStructure(), actual.getStructure());
        assertEquals(expected.getActivation(), actual.getActivation());
        for (String name : new String[] {"weight", "bias"}) {
            assertEquals(LinearOracle.array(expected, name), LinearOracle.array(actual, name));
        }
        assertEquals(expected.describeInput().values(), actual.describeInput().values());
        assertTrue(actual.isInitialized());
    }

    @Test
    void roundTrips() throws Exception {
        for (DataType type :
                new DataType[] {DataType.FLOAT16, DataType.FLOAT32, DataType.FLOAT64}) {
            for (boolean bias : new boolean[] {true, false}) {
                BsrLinear saved = layer(type, bias);
                byte[] bytes = save(saved);
                BsrLinear open =
                        BsrLinear.builder().setUnits(8).setBlockShape(1, 1).optBias(bias).build();
                load(open, bytes);
                assertSame(saved, open);
                BsrLinear used = layer(DataType.FLOAT32, bias);
                NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 3, 12);
                LinearOracle.forward(used, x, false);
                NDArray old = LinearOracle.array(used, "weight");
                load(used, bytes);
                assertSame(saved, used);
                assertFalse(old.isReleased(), "another thread may be using the old array");
                NDArray y = LinearOracle.forward(used, x.toType(type, false), false);
                assertEquals(LinearOracle.forward(saved, x.toType(type, false), false), y);
                assertEquals(bytes.length, save(used).length);
            }
        }
    }

    @Test
    void roundTripsTheEmptyStructure() throws Exception {
        BsrStructure empty = BsrStructure.of(4, 6, 2, 3, new int[3], new int[0]);
        BsrLinear saved = BsrLinear.builder().setStructure(empty).build();
        saved.initialize(manager, DataType.FLOAT32, new Shape(1, 6));
        BsrLinear loaded = BsrLinear.builder().setUnits(4).setBlockShape(2, 3).build();
        load(loaded, save(saved));
        assertSame(saved, loaded);
    }

    @Test
    void setInitializerOfATrainerComesTooLate() throws Exception {
        BsrLinear saved = layer(DataType.FLOAT32, true);
        BsrLinear loaded = BsrLinear.builder().setUnits(8).setBlockShape(4, 3).build();
        load(loaded, save(saved));
        loaded.initialize(manager, DataType.FLOAT32, new Shape(2, 5, 12));
        assertEquals(saved.getMatrix(), loaded.getMatrix());
        assertTrue(LinearOracle.array(loaded, "weight").hasGradient());
    }

    private Linear dense(BsrMatrix w, boolean bias) {
        Linear dense = Linear.builder().setUnits(w.getStructure().getRows()).optBias(bias).build();
        dense.initialize(manager, DataType.FLOAT32, new Shape(2, w.getStructure().getCols()));
        w.toDense(manager).copyTo(LinearOracle.array(dense, "weight"));
        return dense;
    }

    @Test
    void loadsDenseFiles() throws Exception {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 4, 3, 0.5);
        for (boolean bias : new boolean[] {true, false}) {
            byte[] bytes = save(dense(w, bias));
            BsrLinear derived =
                    BsrLinear.builder().setUnits(8).setBlockShape(4, 3).optBias(bias).build();
            load(derived, bytes);
            assertEquals(w, derived.getMatrix());
            assertEquals(new Shape(2), derived.describeInput().valueAt(0));
            BsrLinear given =
                    BsrLinear.builder().setStructure(w.getStructure()).optBias(bias).build();
            load(given, bytes);
            assertEquals(w, given.getMatrix());
        }
    }

    @Test
    void loadsTheOldVersionsOfDenseFiles() throws Exception {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 4, 3, 0.5);
        Linear dense = dense(w, true);
        for (int version = 1; version <= 3; version++) {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            DataOutputStream os = new DataOutputStream(bytes);
            os.writeByte(version);
            if (version == 3) {
                os.writeLong(8);
            }
            if (version >= 2) {
                os.writeBoolean(false);
                os.writeLong(12);
            } else {
                os.write(new Shape(12).getEncoded());
            }
            os.write(new Shape(2).getEncoded());
            for (Parameter parameter : dense.getDirectParameters().values()) {
                parameter.save(os);
            }
            BsrLinear layer = BsrLinear.builder().setUnits(8).setBlockShape(4, 3).build();
            load(layer, bytes.toByteArray());
            assertEquals(w, layer.getMatrix(), "version " + version);
        }
    }

    @Test
    void refusesDenseFilesThatDoNotFit() throws Exception {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 4, 3, 1);
        byte[] bytes = save(dense(w, true));
        BsrStructure one = BsrStructure.of(8, 12, 4, 3, new int[] {0, 1, 1}, new int[] {2});
        BsrLinear layer = BsrLinear.builder().setStructure(one).build();
        String message = refused(layer, bytes);
        assertTrue(message.contains("84 non-zero elements outside the 1 blocks"), message);
        assertFalse(layer.isInitialized(), "nothing was loaded");
        message = refused(BsrLinear.builder().setUnits(6).setBlockShape(2, 3).build(), bytes);
        assertTrue(message.contains("(8, 12)") && message.contains("(6, -1)"), message);
        byte[] noBias = save(dense(w, false));
        message = refused(BsrLinear.builder().setUnits(8).setBlockShape(4, 3).build(), noBias);
        assertTrue(message.contains("bias"), message);
        BsrLinear without =
                BsrLinear.builder().setUnits(8).setBlockShape(4, 3).optBias(false).build();
        message = refused(without, bytes);
        assertTrue(message.contains("optBias(true)"), message);
    }

    @Test
    void readsBigEndianArrays() throws Exception {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 4, 3, 1);
        byte[] bytes = save(dense(w, false));
        int data = bytes.length - 8 * 12 * Float.BYTES;
        // The order stands before the length.
        assertEquals('<', bytes[data - Integer.BYTES - 1]);
        bytes[data - Integer.BYTES - 1] = '>';
        ByteBuffer buffer = ByteBuffer.wrap(bytes);
        for (int i = data; i < bytes.length; i += Float.BYTES) {
            buffer.putInt(i, Integer.reverseBytes(buffer.getInt(i)));
        }
        BsrLinear layer =
                BsrLinear.builder().setUnits(8).setBlockShape(4, 3).optBias(false).build();
        load(layer, bytes);
        assertEquals(w, layer.getMatrix());
    }

    @Test
    void aDenseWeightThatTheBlocksDoNotDivideBecomesOneBlock() throws Exception {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 8, 12, 1);
        for (int[] shape : new int[][] {{4, 5}, {3, 4}, {16, 16}}) {
            BsrLinear layer =
                    BsrLinear.builder().setUnits(8).setBlockShape(shape[0], shape[1]).build();
            load(layer, save(dense(w, true)));
            assertEquals(w, layer.getMatrix());
        }
    }

    @Test
    void refusesFilesOfOtherLayers() throws Exception {
        byte[] bytes = save(layer(DataType.FLOAT32, true));
        String message =
                refused(
                        BsrLinear.builder().setUnits(8).setBlockShape(4, 3).optBias(false).build(),
                        bytes);
        assertTrue(message.contains("optBias(true)"), message);
        message = refused(BsrLinear.builder().setUnits(4).setBlockShape(4, 3).build(), bytes);
        assertTrue(message.contains("8 rows") && message.contains("4"), message);
        BsrLinear wide =
                BsrLinear.builder().setMatrix(LinearOracle.random(random, 8, 15, 4, 3, 1)).build();
        message = refused(wide, bytes);
        assertTrue(message.contains("12 columns") && message.contains("15"), message);
        assertThrows(
                IllegalStateException.class,
                () -> save(BsrLinear.builder().setUnits(8).setBlockShape(4, 3).build()));
        // DJL's Linear must not take our file for its own.
        assertThrows(
                MalformedModelException.class,
                () -> load(Linear.builder().setUnits(8).build(), bytes));
    }

    @Test
    void survivesEveryTruncationAndEveryFlippedByte() throws Exception {
        BsrLinear saved = layer(DataType.FLOAT32, true);
        byte[] bytes = save(saved);
        BsrLinear layer = layer(DataType.FLOAT32, true);
        BsrMatrix before = layer.getMatrix();
        for (int length = 0; length < bytes.length; length++) {
            String message = refused(layer, Arrays.copyOf(bytes, length));
            assertTrue(message.contains("cut off"), message);
        }
        for (int i = 0; i < bytes.length; i++) {
            for (int bit : new int[] {1, 0x80}) {
                byte[] damaged = bytes.clone();
                damaged[i] ^= (byte) bit;
                int at = i;
                assertThrows(
                        MalformedModelException.class,
                        () -> load(layer, damaged),
                        () -> "byte " + at + " of " + bytes.length);
            }
        }
        assertEquals(before, layer.getMatrix(), "a failed load changes nothing");
    }

    @Test
    void survivesEveryTruncationOfADenseFile() throws Exception {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 4, 3, 0.5);
        byte[] bytes = save(dense(w, true));
        BsrLinear layer = BsrLinear.builder().setUnits(8).setBlockShape(4, 3).build();
        for (int length = 0; length < bytes.length; length++) {
            refused(layer, Arrays.copyOf(bytes, length));
        }
    }

    @Test
    void refusesBfloat16BeforeTheEngineSeesIt() throws Exception {
        byte[] bytes = save(dense(LinearOracle.random(random, 8, 12, 4, 3, 1), true));
        String file = new String(bytes, java.nio.charset.StandardCharsets.ISO_8859_1);
        // Both names are preceded by a length of two bytes.
        file = file.replace("\0\7FLOAT32", "\0\10BFLOAT16");
        String message =
                refused(
                        BsrLinear.builder().setUnits(8).setBlockShape(4, 3).build(),
                        file.getBytes(java.nio.charset.StandardCharsets.ISO_8859_1));
        assertTrue(message.contains("BFLOAT16") && message.contains("FLOAT32"), message);
    }
}
