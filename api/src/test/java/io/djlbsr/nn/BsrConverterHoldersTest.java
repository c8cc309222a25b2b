/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.AbstractBlock;
import ai.djl.nn.Block;
import ai.djl.nn.core.Linear;
import ai.djl.nn.transformer.ScaledDotProductAttentionBlock;
import ai.djl.training.ParameterStore;
import ai.djl.util.PairList;
import java.util.AbstractList;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The ways in which a block can hold a layer. */
class BsrConverterHoldersTest {

    private final NDManager manager = NDManager.newBaseManager();

    @AfterEach
    void close() {
        manager.close();
    }

    @Test
    void reachesPrivateFields() {
        ScaledDotProductAttentionBlock attention =
                ScaledDotProductAttentionBlock.builder()
                        .setEmbeddingSize(8)
                        .setHeadCount(2)
                        .build();
        attention.initialize(manager, DataType.FLOAT32, new Shape(2, 3, 8));
        Linear key = attention.getKeyProjection();
        BsrConverterTest.converter(4).build().convert(attention);
        assertTrue(attention.getKeyProjection() instanceof BsrLinear);
        assertSame(attention.getKeyProjection(), attention.getChildren().get(0).getValue());
        assertFalse(
                key.getDirectParameters().get("weight").isInitialized(),
                "the dense weight is freed");
    }

    /** Holds layers in every way that a block can. */
    private static final class Holder extends AbstractBlock {
        final Linear shared = addChildBlock("first", Linear.builder().setUnits(4).build());
        final Linear again = addChildBlock("second", shared);
        private Block plain = Linear.builder().setUnits(4).build();
        private final List<Block> list = new ArrayList<>();
        private final Linear[] array = {Linear.builder().setUnits(4).build()};
        private final List<Linear> fixed = List.of(Linear.builder().setUnits(4).build());
        private final Map<String, Object> map = new HashMap<>();
        private final Custom custom = new Custom();

        Holder(NDManager manager) {
            list.add(Linear.builder().setUnits(4).build());
            list.add(shared);
            map.put("key", Linear.builder().setUnits(4).build());
            for (Block block : all()) {
                block.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
            }
        }

        List<Block> all() {
            return List.of(
                    shared,
                    plain,
                    list.get(0),
                    array[0],
                    fixed.get(0),
                    custom,
                    (Block) map.get("key"));
        }

        @Override
        protected NDList forwardInternal(
                ParameterStore store,
                NDList inputs,
                boolean training,
                PairList<String, Object> params) {
            return inputs;
        }

        @Override
        public Shape[] getOutputShapes(Shape[] inputShapes) {
            return inputShapes;
        }
    }

    private static final class Custom extends Linear {
        Custom() {
            super(Linear.builder().setUnits(4));
        }
    }

    @Test
    void findsEveryHolderAndSaysWhatItLeaves() {
        Holder holder = new Holder(manager);
        ConversionReport report = BsrConverterTest.converter(2).build().convert(holder);
        assertTrue(holder.shared instanceof BsrLinear);
        assertSame(holder.shared, holder.again);
        assertSame(holder.shared, holder.getChildren().get(0).getValue());
        assertSame(holder.shared, holder.getChildren().get(1).getValue());
        assertSame(holder.shared, holder.list.get(1));
        assertTrue(holder.plain instanceof BsrLinear);
        assertTrue(holder.list.get(0) instanceof BsrLinear);
        assertTrue(holder.array[0] instanceof BsrLinear);
        assertTrue(holder.map.get("key") instanceof BsrLinear);
        assertEquals(Linear.class, holder.fixed.get(0).getClass());
        assertTrue(holder.fixed.get(0).isInitialized(), "a layer that was left keeps its arrays");
        assertEquals(5, report.getSwappedCount(), report::toString);
        assertEquals(7, report.getEntries().size(), report::toString);
        BsrConverterTest.assertReason(report, "fixed_0", "cannot be set");
        BsrConverterTest.assertReason(report, "custom", "subclass");
        assertEquals("01first", report.getEntries().get(0).name());
    }

    /** Its list takes no block-sparse layer. */
    private static final class Picky extends AbstractBlock {
        private final Linear field = addChildBlock("child", Linear.builder().setUnits(4).build());
        private final List<Linear> list =
                new AbstractList<>() {
                    @Override
                    public Linear get(int index) {
                        return field;
                    }

                    @Override
                    public Linear set(int index, Linear layer) {
                        if (layer instanceof BsrLinear) {
                            throw new IllegalArgumentException("dense layers only");
                        }
                        return layer;
                    }

                    @Override
                    public int size() {
                        return 1;
                    }
                };

        @Override
        protected NDList forwardInternal(
                ParameterStore store,
                NDList inputs,
                boolean training,
                PairList<String, Object> params) {
            return list.get(0).forward(store, inputs, training);
        }

        @Override
        public Shape[] getOutputShapes(Shape[] inputShapes) {
            return inputShapes;
        }

        @Override
        protected void initializeChildBlocks(
                NDManager manager, DataType dataType, Shape... inputShapes) {
            field.initialize(manager, dataType, inputShapes);
        }
    }

    @Test
    void aLayerThatOneHolderKeepsStaysInAll() {
        Picky root = new Picky();
        root.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        Linear linear = root.field;
        ConversionReport report = BsrConverterTest.converter(2).build().convert(root);
        BsrConverterTest.assertReason(report, "01child", "dense layers only");
        assertSame(linear, root.getChildren().get(0).getValue());
        assertSame(linear, root.field);
        assertTrue(linear.getDirectParameters().get("weight").isInitialized());
    }
}
