/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Activation;
import ai.djl.nn.Block;
import ai.djl.nn.LambdaBlock;
import ai.djl.nn.ParallelBlock;
import ai.djl.nn.Parameter;
import ai.djl.nn.SequentialBlock;
import ai.djl.nn.core.Linear;
import ai.djl.nn.transformer.BertBlock;
import ai.djl.nn.transformer.TransformerEncoderBlock;
import ai.djl.training.ParameterStore;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.util.List;
import java.util.Optional;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class BsrConverterTest {

    private final NDManager manager = NDManager.newBaseManager();
    private final Random random = new Random(41);

    @AfterEach
    void close() {
        manager.close();
    }

    static BsrConverter.Builder converter(int block) {
        return BsrConverter.builder().addBlockShape(block, block).optPolicy(ConversionPolicy.all());
    }

    private BertBlock bert() {
        BertBlock bert =
                BertBlock.builder()
                        .nano()
                        .setTokenDictionarySize(30)
                        .optMaxSequenceLength(6)
                        .build();
        Shape ids = new Shape(2, 6);
        bert.initialize(manager, DataType.FLOAT32, ids, ids, ids);
        return bert;
    }

    private NDList bertInput() {
        NDArray ids = manager.arange(12).reshape(2, 6).toType(DataType.INT64, false);
        NDArray zeros = manager.zeros(new Shape(2, 6), DataType.INT64);
        return new NDList(ids, zeros, manager.ones(new Shape(2, 6), DataType.INT64));
    }

    private NDList forward(Block block, NDList input) {
        return block.forward(new ParameterStore(manager, false), input, false);
    }

    private static int count(Block block, Class<?> type) {
        int count = type == block.getClass() ? 1 : 0;
        for (Block child : block.getChildren().values()) {
            count += count(child, type);
        }
        return count;
    }

    @Test
    void swapsAllLayersOfABertBlock() {
        BertBlock bert = bert();
        NDList expected = forward(bert, bertInput());
        List<String> names = bert.getParameters().keys();
        int linears = count(bert, Linear.class);
        ConversionReport report = converter(16).build().convert(bert);
        assertEquals(25, linears, "Linears in the nano BERT");
        assertEquals(25, report.getSwappedCount(), report::toString);
        assertEquals(0, count(bert, Linear.class));
        assertEquals(25, count(bert, BsrLinear.class));
        assertEquals(names, bert.getParameters().keys());
        NDList actual = forward(bert, bertInput());
        for (int i = 0; i < expected.size(); i++) {
            LinearOracle.assertClose(expected.get(i), actual.get(i), 1e-4);
        }
        for (ConversionReport.Entry entry : report.getEntries()) {
            assertTrue(names.contains(entry.name() + "_weight"), entry.name());
            assertEquals(1.0, entry.density());
        }
        // Every block is there, so only the indices are added.
        assertTrue(report.getBytesAfter() > report.getBytesBefore());
    }

    @Test
    void prunedModelEqualsItsDensifiedWeights() {
        BertBlock bert = bert();
        BlockPruner pruner = BlockPruner.builder().setBlockShape(16, 16).setDensity(0.25).build();
        ConversionReport report =
                BsrConverter.builder()
                        .addBlockShape(16, 16)
                        .optPruner(pruner)
                        .optPolicy(ConversionPolicy.nameMatches("outputBlock"))
                        .build()
                        .convert(bert);
        assertEquals(8, report.getSwappedCount(), report::toString);
        assertTrue(report.getBytesAfter() < 0.6 * report.getBytesBefore(), report::toString);
        NDList sparse = forward(bert, bertInput());
        BertBlock dense = bert();
        copyDensified(bert, dense);
        NDList expected = forward(dense, bertInput());
        LinearOracle.assertClose(expected.get(0), sparse.get(0), 1e-4);
    }

    private void copyDensified(Block from, Block to) {
        for (int i = 0; i < from.getChildren().size(); i++) {
            Block source = from.getChildren().get(i).getValue();
            Block target = to.getChildren().get(i).getValue();
            if (source instanceof BsrLinear sparse) {
                copyDirect(sparse.toLinear(manager), target);
            } else {
                copyDirect(source, target);
                copyDensified(source, target);
            }
        }
        copyDirect(from, to);
    }

    private static void copyDirect(Block from, Block to) {
        for (int i = 0; i < from.getDirectParameters().size(); i++) {
            Parameter target = to.getDirectParameters().get(i).getValue();
            from.getDirectParameters().get(i).getValue().getArray().copyTo(target.getArray());
        }
    }

    @Test
    void convertedModelsAreSavedAndLoaded() throws Exception {
        BertBlock bert = bert();
        BsrConverter converter =
                BsrConverter.builder()
                        .addBlockShape(16, 16)
                        .optPruner(
                                BlockPruner.builder().setBlockShape(16, 16).setDensity(0.5).build())
                        .optPolicy(ConversionPolicy.nameMatches("outputBlock"))
                        .build();
        converter.convert(bert);
        NDList expected = forward(bert, bertInput());
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        bert.saveParameters(new DataOutputStream(bytes));
        BertBlock loaded =
                BertBlock.builder()
                        .nano()
                        .setTokenDictionarySize(30)
                        .optMaxSequenceLength(6)
                        .build();
        ConversionReport report =
                converter.prepareToLoad(loaded, name -> name.contains("outputBlock"));
        assertEquals(8, report.getSwappedCount(), report::toString);
        loaded.loadParameters(
                manager, new DataInputStream(new ByteArrayInputStream(bytes.toByteArray())));
        NDList actual = forward(loaded, bertInput());
        for (int i = 0; i < expected.size(); i++) {
            assertEquals(expected.get(i), actual.get(i));
        }
    }

    @Test
    void convertsEncodersSequencesAndParallelBlocks() {
        TransformerEncoderBlock encoder =
                new TransformerEncoderBlock(8, 2, 16, 0.1f, Activation::gelu);
        ParallelBlock parallel =
                new ParallelBlock(
                        lists -> lists.get(0),
                        List.of(
                                Linear.builder().setUnits(8).build(),
                                new SequentialBlock()
                                        .add(Linear.builder().setUnits(4).optBias(false).build())));
        SequentialBlock root =
                new SequentialBlock()
                        .add(Linear.builder().setUnits(8).build())
                        .add(Activation.reluBlock())
                        .add(encoder)
                        .add(parallel);
        root.initialize(manager, DataType.FLOAT32, new Shape(2, 3, 8));
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 2, 3, 8);
        NDArray expected = forward(root, new NDList(x)).get(0);
        ConversionReport report = converter(4).build().convert(root);
        assertEquals(9, report.getSwappedCount(), report::toString);
        assertEquals(0, count(root, Linear.class));
        LinearOracle.assertClose(expected, forward(root, new NDList(x)).get(0), 1e-4);
        assertEquals(2, report.getOpaqueBlocks().size(), report::toString);
        assertTrue(report.getOpaqueBlocks().get(0).contains("LambdaBlock"));
    }

    static void assertReason(ConversionReport report, String name, String reason) {
        for (ConversionReport.Entry entry : report.getEntries()) {
            if (entry.name().equals(name)) {
                assertFalse(entry.swapped());
                assertTrue(entry.reason().contains(reason), entry.reason());
                return;
            }
        }
        throw new AssertionError("no " + name + " in\n" + report);
    }

    @Test
    void leavesWhatDoesNotFitAndWhatThePolicyRejects() {
        SequentialBlock root =
                new SequentialBlock()
                        .add(Linear.builder().setUnits(6).build())
                        .add(Linear.builder().setUnits(9).build())
                        .add(Linear.builder().setUnits(4).build());
        ConversionReport report = converter(3).build().convert(root);
        assertReason(report, "01Linear", "initialize");
        root.initialize(manager, DataType.FLOAT32, new Shape(2, 6));
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 2, 6);
        NDArray expected = forward(root, new NDList(x)).get(0);
        report =
                BsrConverter.builder()
                        .addBlockShape(3, 3)
                        .addBlockShape(4, 3)
                        .optPolicy(
                                ConversionPolicy.nameMatches("^01")
                                        .or(ConversionPolicy.blockShape(4, 3)))
                        .build()
                        .convert(root);
        assertReason(report, "02Linear", "4x3 blocks do not divide it");
        assertReason(report, "02Linear", "name does not match ^01, and the block shape is not 4x3");
        assertEquals(2, report.getSwappedCount(), report::toString);
        assertEquals(4, report.getEntries().get(2).blockRows());
        LinearOracle.assertClose(expected, forward(root, new NDList(x)).get(0), 1e-5);
        // The default policy leaves what is dense; a second run finds nothing more to do.
        report = BsrConverter.builder().addBlockShape(3, 3).build().convert(root);
        assertEquals(0, report.getSwappedCount());
        assertReason(report, "02Linear", "density 1.000 is above 0.600");
        assertReason(report, "01Linear", "block-sparse already");
    }

    @Test
    void theRootItselfCannotBeSwapped() {
        Linear root = Linear.builder().setUnits(4).build();
        root.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        assertReason(converter(2).build().convert(root), "", "fromLinear");
        ConversionReport report =
                converter(2).build().convert(new LambdaBlock(list -> list, "lambda"));
        assertEquals(0, report.getEntries().size());
        assertEquals(1, report.getOpaqueBlocks().size());
    }

    @Test
    void keepsArraysThatOtherBlocksShare() {
        Linear first = Linear.builder().setUnits(4).optBias(false).build();
        Linear second = Linear.builder().setUnits(4).optBias(false).build();
        Linear left = Linear.builder().setUnits(4).optBias(false).build();
        NDArray pair = LinearOracle.input(random, manager, DataType.FLOAT32, 4, 4);
        NDArray kept = LinearOracle.input(random, manager, DataType.FLOAT32, 4, 4);
        Linear third = Linear.builder().setUnits(4).optBias(false).build();
        Linear[] layers = {first, second, third, left};
        NDArray[] arrays = {pair, pair, kept, kept};
        SequentialBlock root = new SequentialBlock();
        for (int i = 0; i < layers.length; i++) {
            layers[i].getDirectParameters().get("weight").setArray(arrays[i]);
            root.add(layers[i]);
        }
        root.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 2, 4);
        NDArray expected = forward(root, new NDList(x)).get(0);
        ConversionReport report =
                converter(2)
                        .optPolicy(ConversionPolicy.nameMatches("^0[123]"))
                        .build()
                        .convert(root);
        assertEquals(3, report.getSwappedCount(), report::toString);
        assertTrue(pair.isReleased(), "nothing holds it any more");
        assertFalse(kept.isReleased(), "a layer that was left holds it");
        LinearOracle.assertClose(expected, forward(root, new NDList(x)).get(0), 1e-4);
    }

    @Test
    void aFailureLeavesTheLayerAndNothingElse() {
        SequentialBlock root =
                new SequentialBlock()
                        .add(Linear.builder().setUnits(4).build())
                        .add(Linear.builder().setUnits(4).build())
                        .add(Linear.builder().setUnits(4).build());
        root.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 2, 4);
        NDArray expected = forward(root, new NDList(x)).get(0);
        int arrays = manager.getManagedArrays().size();
        ConversionPolicy failing =
                (name, linear, candidate) -> {
                    if (name.startsWith("02")) {
                        throw new IllegalStateException("no opinion");
                    }
                    return name.startsWith("03") ? Optional.of("rejected") : Optional.empty();
                };
        ConversionReport report = converter(2).optPolicy(failing).build().convert(root);
        assertEquals(arrays, manager.getManagedArrays().size(), "candidates are closed");
        assertEquals(1, report.getSwappedCount(), report::toString);
        assertReason(report, "02Linear", "no opinion");
        assertReason(report, "03Linear", "rejected");
        LinearOracle.assertClose(expected, forward(root, new NDList(x)).get(0), 1e-4);
    }

    @Test
    void pruningKeepsDoubles() {
        Linear linear = Linear.builder().setUnits(4).optBias(false).build();
        SequentialBlock root = new SequentialBlock().add(linear);
        root.initialize(manager, DataType.FLOAT64, new Shape(1, 4));
        NDArray weight = LinearOracle.array(linear, "weight");
        weight.addi(1e-12);
        NDArray expected = weight.duplicate();
        BsrConverter.builder()
                .optPruner(BlockPruner.builder().setBlockShape(2, 2).setDensity(1).build())
                .optPolicy(ConversionPolicy.all())
                .build()
                .convert(root);
        BsrLinear converted = (BsrLinear) root.getChildren().get(0).getValue();
        assertEquals(expected, LinearOracle.array(converted.toLinear(manager), "weight"));
    }

    @Test
    void everyLayerOfAConvertedModelIsPreparedToLoad() throws Exception {
        SequentialBlock root = mixed();
        root.initialize(manager, DataType.FLOAT32, new Shape(1, 8));
        BsrConverter converter =
                BsrConverter.builder()
                        .optPruner(
                                BlockPruner.builder().setBlockShape(4, 4).setDensity(0.5).build())
                        .build();
        assertEquals(1, converter.convert(root).getSwappedCount());
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        root.saveParameters(new DataOutputStream(bytes));
        SequentialBlock loaded = mixed();
        ConversionReport report = converter.prepareToLoad(loaded, name -> true);
        assertEquals(2, report.getSwappedCount(), report::toString);
        assertTrue(
                report.toString().lines().toList().get(1).matches("01Linear +- +4x4 +- +0.*"),
                report::toString);
        loaded.loadParameters(
                manager, new DataInputStream(new ByteArrayInputStream(bytes.toByteArray())));
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 2, 8);
        LinearOracle.assertClose(
                forward(root, new NDList(x)).get(0), forward(loaded, new NDList(x)).get(0), 1e-5);
    }

    /** The blocks divide the first layer alone. */
    private static SequentialBlock mixed() {
        return new SequentialBlock()
                .add(Linear.builder().setUnits(8).build())
                .add(Linear.builder().setUnits(5).build());
    }

    @Test
    void keepsDenseLayersOnRequest() {
        Linear linear = Linear.builder().setUnits(4).build();
        SequentialBlock root = new SequentialBlock().add(linear);
        root.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        converter(2).optKeepDense(true).build().convert(root);
        assertTrue(linear.isInitialized());
        assertEquals(0, count(root, Linear.class));
    }

    @Test
    void printsATable() {
        SequentialBlock root =
                new SequentialBlock()
                        .add(Linear.builder().setUnits(4).optBias(false).build())
                        .add(Linear.builder().setUnits(5).build());
        root.initialize(manager, DataType.FLOAT32, new Shape(1, 4));
        List<String> lines = converter(2).build().convert(root).toString().lines().toList();
        assertEquals(4, lines.size());
        assertTrue(
                lines.get(1).matches("01Linear +\\(4, 4\\) +2x2 +1\\.000 +64 +92 +swapped"),
                lines.get(1));
        assertTrue(
                lines.get(2).matches("02Linear +\\(5, 4\\) .*left: 2x2 blocks do not.*"),
                lines.get(2));
        assertEquals("1 of 2 layers swapped, 144 bytes before, 172 after", lines.get(3));
    }

    @Test
    void refusesSenselessSettings() {
        assertThrows(IllegalArgumentException.class, () -> BsrConverter.builder().build());
        assertThrows(
                IllegalArgumentException.class, () -> BsrConverter.builder().addBlockShape(0, 4));
        assertThrows(IllegalArgumentException.class, () -> converter(2).optTolerance(-1).build());
        assertThrows(IllegalArgumentException.class, () -> ConversionPolicy.maxDensity(1.5));
        BlockPruner pruner = BlockPruner.builder().setBlockShape(2, 4).setDensity(1).build();
        String message =
                assertThrows(
                                IllegalArgumentException.class,
                                () -> converter(2).optPruner(pruner).build())
                        .getMessage();
        assertTrue(message.contains("2x2") && message.contains("2x4"), message);
    }
}
