/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.AbstractBlock;
import ai.djl.nn.Activation;
import ai.djl.nn.core.Linear;
import ai.djl.nn.norm.LayerNorm;
import ai.djl.training.ParameterStore;
import ai.djl.util.PairList;

/**
 * One layer of a BERT encoder: self-attention and a feed-forward network with exact GELU, each
 * added to its input and normalized.
 *
 * <p>Input: hidden states [batch, tokens, hidden] and, if the batch is padded, an additive
 * attention mask [batch, 1, 1, tokens]. Output: hidden states [batch, tokens, hidden].
 */
final class EncoderLayer extends AbstractBlock {

    private static final byte VERSION = 1;

    private final int hidden;
    private final int heads;
    private final Linear query;
    private final Linear key;
    private final Linear value;
    private final Linear attentionOutput;
    private final LayerNorm attentionNorm;
    private final Linear intermediate;
    private final Linear output;
    private final LayerNorm outputNorm;

    EncoderLayer(int hidden, int heads, int feedForward) {
        super(VERSION);
        this.hidden = hidden;
        this.heads = heads;
        query = addChildBlock("query", linear(hidden));
        key = addChildBlock("key", linear(hidden));
        value = addChildBlock("value", linear(hidden));
        attentionOutput = addChildBlock("attentionOutput", linear(hidden));
        attentionNorm = addChildBlock("attentionNorm", MiniLmEncoder.layerNorm());
        intermediate = addChildBlock("intermediate", linear(feedForward));
        output = addChildBlock("output", linear(hidden));
        outputNorm = addChildBlock("outputNorm", MiniLmEncoder.layerNorm());
    }

    private static Linear linear(int units) {
        return Linear.builder().setUnits(units).build();
    }

    @Override
    protected NDList forwardInternal(
            ParameterStore parameters,
            NDList inputs,
            boolean training,
            PairList<String, Object> params) {
        NDArray mask = inputs.size() > 1 ? inputs.get(1) : null;
        NDArray attended = attend(parameters, inputs.get(0), mask, training);
        NDArray activated = activate(parameters, attended, training);
        NDArray sum = project(parameters, activated, training).add(attended);
        return new NDList(normalize(parameters, sum, training));
    }

    /** Returns the input of the feed-forward network: normalized self-attention plus residual. */
    NDArray attend(ParameterStore parameters, NDArray x, NDArray mask, boolean training) {
        NDArray q = splitHeads(apply(query, parameters, x, training));
        NDArray k = splitHeads(apply(key, parameters, x, training));
        NDArray v = splitHeads(apply(value, parameters, x, training));
        NDArray scores = q.matMul(k.swapAxes(2, 3)).div((float) Math.sqrt((double) hidden / heads));
        if (mask != null) {
            scores = scores.add(mask);
        }
        NDArray context = scores.softmax(3).matMul(v).transpose(0, 2, 1, 3).reshape(x.getShape());
        NDArray sum = apply(attentionOutput, parameters, context, training).add(x);
        return apply(attentionNorm, parameters, sum, training);
    }

    /** Returns GELU(intermediate(attended)), [batch, tokens, feedForward]. */
    NDArray activate(ParameterStore parameters, NDArray attended, boolean training) {
        return Activation.gelu(apply(intermediate, parameters, attended, training));
    }

    /** Returns output(activated), [batch, tokens, hidden]. */
    NDArray project(ParameterStore parameters, NDArray activated, boolean training) {
        return apply(output, parameters, activated, training);
    }

    /** Returns the layer's result from the sum of {@link #project} and {@link #attend}. */
    NDArray normalize(ParameterStore parameters, NDArray sum, boolean training) {
        return apply(outputNorm, parameters, sum, training);
    }

    /** [batch, tokens, hidden] to [batch, heads, tokens, hidden / heads]. */
    private NDArray splitHeads(NDArray x) {
        Shape shape = x.getShape();
        return x.reshape(shape.get(0), shape.get(1), heads, hidden / heads).transpose(0, 2, 1, 3);
    }

    private static NDArray apply(
            AbstractBlock block, ParameterStore parameters, NDArray x, boolean training) {
        return block.forward(parameters, new NDList(x), training).singletonOrThrow();
    }

    Linear getIntermediate() {
        return intermediate;
    }

    Linear getOutput() {
        return output;
    }

    /** Copies the weights of layer {@code index} of an ONNX BERT encoder. */
    void load(OnnxWeights weights, int index) {
        String layer = "encoder.layer." + index + ".";
        MiniLmEncoder.load(query, weights, layer + "attention.self.query");
        MiniLmEncoder.load(key, weights, layer + "attention.self.key");
        MiniLmEncoder.load(value, weights, layer + "attention.self.value");
        MiniLmEncoder.load(attentionOutput, weights, layer + "attention.output.dense");
        MiniLmEncoder.load(attentionNorm, weights, layer + "attention.output.LayerNorm");
        MiniLmEncoder.load(intermediate, weights, layer + "intermediate.dense");
        MiniLmEncoder.load(output, weights, layer + "output.dense");
        MiniLmEncoder.load(outputNorm, weights, layer + "output.LayerNorm");
    }

    @Override
    protected void initializeChildBlocks(
            NDManager manager, DataType dataType, Shape... inputShapes) {
        Shape x = inputShapes[0];
        query.initialize(manager, dataType, x);
        key.initialize(manager, dataType, x);
        value.initialize(manager, dataType, x);
        attentionOutput.initialize(manager, dataType, x);
        attentionNorm.initialize(manager, dataType, x);
        intermediate.initialize(manager, dataType, x);
        output.initialize(manager, dataType, intermediate.getOutputShapes(new Shape[] {x}));
        outputNorm.initialize(manager, dataType, x);
    }

    @Override
    public Shape[] getOutputShapes(Shape[] inputShapes) {
        return new Shape[] {inputShapes[0]};
    }
}
