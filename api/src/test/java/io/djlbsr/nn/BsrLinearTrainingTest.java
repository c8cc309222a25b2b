/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Model;
import ai.djl.engine.Engine;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDArrays;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Activation;
import ai.djl.nn.Parameter;
import ai.djl.nn.SequentialBlock;
import ai.djl.nn.core.Linear;
import ai.djl.training.DefaultTrainingConfig;
import ai.djl.training.EasyTrain;
import ai.djl.training.GradientCollector;
import ai.djl.training.ParameterStore;
import ai.djl.training.Trainer;
import ai.djl.training.dataset.ArrayDataset;
import ai.djl.training.dataset.Batch;
import ai.djl.training.loss.Loss;
import ai.djl.training.optimizer.Optimizer;
import ai.djl.training.tracker.Tracker;
import io.djlbsr.BsrMatrix;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class BsrLinearTrainingTest {

    private final NDManager manager = NDManager.newBaseManager();
    private final Random random = new Random(31);

    @AfterEach
    void close() {
        manager.close();
    }

    /** The gradients of values, bias and input for the loss Σ g·y. */
    private NDList gradients(
            ai.djl.nn.Block block,
            NDArray x,
            NDArray g,
            java.util.function.UnaryOperator<NDArray> act) {
        x.setRequiresGradient(true);
        ParameterStore store = new ParameterStore(manager, false);
        try (GradientCollector collector = Engine.getInstance().newGradientCollector()) {
            collector.zeroGradients();
            NDArray y = act.apply(block.forward(store, new NDList(x), true).singletonOrThrow());
            collector.backward(y.mul(g).sum());
        }
        return new NDList(
                LinearOracle.array(block, "weight").getGradient().duplicate(),
                LinearOracle.array(block, "bias").getGradient().duplicate(),
                x.getGradient().duplicate());
    }

    @Test
    void gradientsAreTheDenseOnesWithinTheBlocks() {
        for (BsrActivation activation : BsrActivation.values()) {
            for (boolean nonFinite : new boolean[] {false, true}) {
                BsrMatrix w =
                        BsrMatrix.builder(8, 12, 4, 3)
                                .add(0, 1, LinearOracle.normal(random, 12))
                                .add(0, 3, LinearOracle.normal(random, 12))
                                .add(1, 1, LinearOracle.normal(random, 12))
                                .build();
                BsrLinear sparse =
                        BsrLinear.builder()
                                .setMatrix(w)
                                .optBias(LinearOracle.normal(random, 8))
                                .optActivation(activation)
                                .build();
                sparse.initialize(manager, DataType.FLOAT64, new Shape(1, 12));
                Linear dense = sparse.toLinear(manager);
                NDArray x = LinearOracle.input(random, manager, DataType.FLOAT64, 2, 5, 12);
                NDArray g = LinearOracle.input(random, manager, DataType.FLOAT64, 2, 5, 8);
                NDList expected = gradients(dense, x.duplicate(), g, y -> activate(y, activation));
                NDArray input = x.duplicate();
                if (nonFinite) {
                    // Column 0 is in no block: it forces the other product, and changes nothing.
                    input.set(new ai.djl.ndarray.index.NDIndex("0,0,0"), Double.NaN);
                }
                NDList actual = gradients(sparse, input, g, y -> y);
                NDArray blocks =
                        ReferenceBsrOperator.fromDense(manager, w.getStructure(), expected.get(0));
                LinearOracle.assertClose(blocks, actual.get(0), 1e-12);
                LinearOracle.assertClose(expected.get(1), actual.get(1), 1e-12);
                LinearOracle.assertClose(expected.get(2), actual.get(2), 1e-12);
            }
        }
    }

    private static NDArray activate(NDArray y, BsrActivation activation) {
        return switch (activation) {
            case NONE -> y;
            case RELU -> Activation.relu(y);
            case GELU -> Activation.gelu(y);
            case GELU_TANH -> {
                NDArray inner = y.add(y.mul(y).mul(y).mul(0.044715)).mul(Math.sqrt(2 / Math.PI));
                yield inner.tanh().add(1).mul(y).mul(0.5);
            }
            case SILU -> Activation.swish(y, 1f);
        };
    }

    @Test
    void aTrainerLearnsASparseTeacher() throws Exception {
        BsrMatrix teacher = LinearOracle.random(random, 8, 12, 4, 3, 0.5);
        BsrLinear student =
                BsrLinear.builder().setStructure(teacher.getStructure()).optBias(true).build();
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 256, 12);
        NDArray labels = x.matMul(teacher.toDense(manager).transpose()).add(0.5f);
        ArrayDataset data =
                new ArrayDataset.Builder()
                        .setData(x)
                        .optLabels(labels)
                        .setSampling(32, true)
                        .build();
        DefaultTrainingConfig config =
                new DefaultTrainingConfig(Loss.l2Loss())
                        .optOptimizer(
                                Optimizer.sgd().setLearningRateTracker(Tracker.fixed(1f)).build());
        try (Model model = Model.newInstance("student")) {
            model.setBlock(new SequentialBlock().add(student));
            try (Trainer trainer = model.newTrainer(config)) {
                trainer.initialize(new Shape(32, 12));
                float first = loss(student, x, labels);
                int inModel = 0;
                for (int epoch = 0; epoch < 30; epoch++) {
                    for (Batch batch : trainer.iterateDataset(data)) {
                        EasyTrain.trainBatch(trainer, batch);
                        trainer.step();
                        batch.close();
                    }
                    // Inference between the steps: packed values must follow the optimizer.
                    loss(student, x, labels);
                    int arrays = model.getNDManager().getManagedArrays().size();
                    assertTrue(epoch < 2 || arrays == inModel, "arrays stay in the model");
                    inModel = arrays;
                }
                float last = loss(student, x, labels);
                assertTrue(last < 1e-6f * first, "loss went from " + first + " to " + last);
            }
            float[] expected = teacher.toDense();
            float[] learned = student.getMatrix().toDense();
            for (int i = 0; i < expected.length; i++) {
                assertEquals(expected[i], learned[i], 0.01f, "row " + i / 12 + ", col " + i % 12);
            }
        }
    }

    private float loss(BsrLinear layer, NDArray x, NDArray labels) {
        try (NDManager scope = manager.newSubManager()) {
            NDArray input = x.duplicate();
            input.attach(scope);
            NDArray y = LinearOracle.forward(layer, input, false);
            return NDArrays.sub(y, labels).square().mean().getFloat();
        }
    }

    @Test
    void frozenParametersKeepTheirValues() throws Exception {
        BsrMatrix w = LinearOracle.random(random, 8, 12, 4, 3, 0.5);
        BsrLinear layer = BsrLinear.builder().setMatrix(w).build();
        layer.freezeParameters(true, p -> p.getType() == Parameter.Type.WEIGHT);
        NDArray x = LinearOracle.input(random, manager, DataType.FLOAT32, 32, 12);
        DefaultTrainingConfig config =
                new DefaultTrainingConfig(Loss.l2Loss())
                        .optOptimizer(
                                Optimizer.sgd()
                                        .setLearningRateTracker(Tracker.fixed(0.1f))
                                        .build());
        try (Model model = Model.newInstance("frozen")) {
            model.setBlock(layer);
            try (Trainer trainer = model.newTrainer(config)) {
                trainer.initialize(new Shape(32, 12));
                try (GradientCollector collector = trainer.newGradientCollector()) {
                    NDArray y = trainer.forward(new NDList(x)).singletonOrThrow();
                    collector.backward(y.square().mean());
                }
                trainer.step();
                assertEquals(w, layer.getMatrix());
                assertTrue(
                        LinearOracle.array(layer, "bias").abs().sum().getFloat() > 0,
                        "the bias learns");
            }
        }
    }
}
