/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.engine.Engine;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.training.GradientCollector;
import ai.djl.training.optimizer.Optimizer;
import ai.djl.training.tracker.Tracker;
import io.djlbsr.BsrMatrix;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.operator.PackedBsrWeight;
import java.nio.FloatBuffer;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Random;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** A packed weight over time: who owns it, when it ends, and how it learns of new values. */
class PackedBsrWeightLifeTest {

    private final Random random = new Random(11);
    private final BsrMatrix matrix = Pattern.RANDOM.matrix(4, 4, new int[] {4, 4}, random);
    private final PtBsrOperator operator = new PtBsrOperator();
    private NDManager manager;
    private NDArray values;
    private NDArray input;

    @BeforeEach
    void setUp() {
        manager = Engine.getEngine("PyTorch").newBaseManager();
        values = matrix.toValuesArray(manager, DataType.FLOAT32);
        input = Oracle.random(manager, random, DataType.FLOAT32, 3, 16);
    }

    @AfterEach
    void tearDown() {
        manager.close();
    }

    private PackedBsrWeight pack(NDManager owner) {
        return operator.pack(owner, matrix.getStructure(), values);
    }

    private float[] apply(PackedBsrWeight packed) {
        try (NDArray output = packed.linear(input, null, BsrActivation.NONE)) {
            return output.toFloatArray();
        }
    }

    @Test
    void changesInPlaceAreNoticed() {
        Map<String, Consumer<NDArray>> changes = new LinkedHashMap<>();
        changes.put("subi", v -> v.subi(0.5f));
        changes.put("muli by an array", v -> v.muli(v.duplicate()));
        changes.put("set of an index", v -> v.set(new ai.djl.ndarray.index.NDIndex("0"), 3));
        changes.put(
                "set of a buffer",
                v -> v.set(FloatBuffer.wrap(new float[Math.toIntExact(v.size())])));
        changes.put("a change through a view", v -> v.get(0).addi(1));
        changes.put("a change through a reshape", v -> v.reshape(-1).addi(1));
        changes.put(
                "an optimizer's step",
                v -> {
                    Optimizer sgd =
                            Optimizer.sgd().setLearningRateTracker(Tracker.fixed(0.1f)).build();
                    sgd.update("weight", v, v.onesLike());
                });
        changes.put(
                "an optimizer's step on a trained array",
                v -> {
                    v.setRequiresGradient(true);
                    try (GradientCollector collector =
                            Engine.getEngine("PyTorch").newGradientCollector()) {
                        collector.backward(v.mul(v).sum());
                    }
                    Optimizer.adam().build().update("weight", v, v.getGradient());
                });
        changes.forEach(
                (name, change) -> {
                    values = matrix.toValuesArray(manager, DataType.FLOAT32);
                    try (PackedBsrWeight packed = pack(manager)) {
                        assertTrue(packed.isCurrent(values), name + ": current before");
                        float[] before = apply(packed);
                        change.accept(values);
                        assertFalse(packed.isCurrent(values), name + ": outdated after");
                        assertArrayEquals(before, apply(packed), name + ": keeps the old values");
                    }
                });
    }

    @Test
    void readingLeavesItCurrent() {
        try (PackedBsrWeight packed = pack(manager)) {
            values.toFloatArray();
            values.add(1).close();
            apply(packed);
            assertTrue(packed.isCurrent(values));
        }
    }

    @Test
    void anotherArrayWithEqualValuesIsNotCurrent() {
        try (PackedBsrWeight packed = pack(manager)) {
            assertFalse(packed.isCurrent(values.duplicate()));
        }
    }

    @Test
    void itEndsWithItsManager() {
        NDManager owner = manager.newSubManager();
        PackedBsrWeight packed = pack(owner);
        assertFalse(packed.isReleased());
        owner.close();
        assertTrue(packed.isReleased());
        assertFalse(packed.isCurrent(values));
        IllegalStateException e = assertThrows(IllegalStateException.class, () -> apply(packed));
        assertTrue(e.getMessage().contains("packed weight is closed"), e.getMessage());
        packed.close();
    }

    @Test
    void closingTwiceDoesNothingAndFreesOnlyIt() {
        int before = manager.getManagedArrays().size();
        PackedBsrWeight packed = pack(manager);
        assertEquals(before + 2, manager.getManagedArrays().size());
        packed.close();
        packed.close();
        assertTrue(packed.isReleased());
        assertEquals(before, manager.getManagedArrays().size());
    }

    @Test
    void aFailedPackLeavesNothingBehind() {
        int before = manager.getManagedArrays().size();
        assertThrows(
                IllegalArgumentException.class,
                () -> operator.pack(manager, matrix.getStructure(), values.reshape(1, -1).get(0)));
        // The two views that the call above made.
        assertEquals(before + 2, manager.getManagedArrays().size());
    }

    @Test
    void aCappedManagerMayOwnIt() {
        NDManager owner = manager.newSubManager();
        owner.cap();
        try (PackedBsrWeight packed = pack(owner)) {
            assertFalse(packed.isReleased());
        }
        owner.close();
    }

    @Test
    void aScopeFreesOutputsButNotTheWeight() {
        PackedBsrWeight packed;
        NDArray output;
        try (NDScope scope = new NDScope()) {
            scope.suppressNotUsedWarning();
            packed = pack(manager);
            output = packed.linear(input, null, BsrActivation.NONE);
        }
        assertTrue(output.isReleased());
        assertFalse(packed.isReleased());
        assertEquals(48, apply(packed).length);
        packed.close();
    }

    @Test
    void theOutputBelongsToTheInputsManager() {
        NDManager request = manager.newSubManager();
        try (PackedBsrWeight packed = pack(manager)) {
            NDArray own = input.duplicate();
            own.attach(request);
            NDArray output = packed.linear(own, null, BsrActivation.NONE);
            assertEquals(request, output.getManager());
            request.close();
            assertTrue(output.isReleased());
            assertFalse(packed.isReleased());
        }
    }

    @Test
    void packedBytesHoldAtLeastTheValues() {
        try (PackedBsrWeight packed = pack(manager)) {
            assertTrue(packed.getPackedBytes() >= 4L * values.size(), packed.toString());
        }
    }

    @Test
    void anEmptyWeightPacksAndGivesTheBias() {
        BsrMatrix empty = Pattern.EMPTY.matrix(2, 2, new int[] {3, 3}, random);
        NDArray none = empty.toValuesArray(manager, DataType.FLOAT32);
        assertEquals(new Shape(0, 3, 3), none.getShape());
        try (PackedBsrWeight packed = operator.pack(manager, empty.getStructure(), none)) {
            NDArray bias = Oracle.random(manager, random, DataType.FLOAT32, 6);
            NDArray output = packed.linear(manager.ones(new Shape(1, 6)), bias, BsrActivation.NONE);
            assertArrayEquals(bias.toFloatArray(), output.toFloatArray());
            assertTrue(packed.isCurrent(none));
        }
    }
}
