/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.ndarray.types.SparseFormat;
import ai.djl.nn.AbstractBlock;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import ai.djl.nn.norm.LayerNorm;
import ai.djl.training.ParameterStore;
import ai.djl.training.initializer.Initializer;
import ai.djl.util.Pair;
import ai.djl.util.PairList;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The sentence encoder all-MiniLM-L6-v2 as a DJL block: BERT embeddings, six {@link EncoderLayer}s,
 * the mean over the tokens, and L2 normalization.
 *
 * <p>Input: token ids [batch, tokens] of type INT64 and, if the batch is padded, a mask [batch,
 * tokens] of type FLOAT32 that is 1 for tokens and 0 for padding. Output: embeddings [batch, 384].
 *
 * @see <a href="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2">The model card</a>
 */
public final class MiniLmEncoder extends AbstractBlock {

    /** The number of components of an embedding. */
    public static final int HIDDEN = 384;

    private static final byte VERSION = 1;
    private static final int LAYERS = 6;
    private static final int HEADS = 12;

    /** The number of hidden units of a feed-forward network. */
    static final int FEED_FORWARD = 1536;

    private static final int VOCABULARY = 30522;
    private static final int POSITIONS = 512;
    private static final float EPSILON = 1e-12f;

    private final Parameter word;
    private final Parameter position;
    private final Parameter tokenType;
    private final LayerNorm embeddingNorm;
    private final List<EncoderLayer> layers = new ArrayList<>();

    MiniLmEncoder() {
        super(VERSION);
        word = addParameter(weight("word", new Shape(VOCABULARY, HIDDEN)));
        position = addParameter(weight("position", new Shape(POSITIONS, HIDDEN)));
        tokenType = addParameter(weight("tokenType", new Shape(2, HIDDEN)));
        embeddingNorm = addChildBlock("embeddingNorm", layerNorm());
        for (int i = 0; i < LAYERS; ++i) {
            layers.add(addChildBlock("layer" + i, new EncoderLayer(HIDDEN, HEADS, FEED_FORWARD)));
        }
    }

    /**
     * Creates the encoder with the weights of an ONNX file.
     *
     * @param manager the manager that owns the weights
     * @param weights the weights
     * @return the initialized encoder
     */
    static MiniLmEncoder load(NDManager manager, OnnxWeights weights) {
        MiniLmEncoder encoder = new MiniLmEncoder();
        // Nothing stays of the initial values: zeros are the quickest.
        encoder.setInitializer(Initializer.ZEROS, parameter -> true);
        encoder.initialize(manager, DataType.FLOAT32, new Shape(1, 1));
        set(encoder.word, weights, "embeddings.word_embeddings.weight");
        set(encoder.position, weights, "embeddings.position_embeddings.weight");
        set(encoder.tokenType, weights, "embeddings.token_type_embeddings.weight");
        load(encoder.embeddingNorm, weights, "embeddings.LayerNorm");
        for (int i = 0; i < LAYERS; ++i) {
            encoder.layers.get(i).load(weights, i);
        }
        encoder.freezeParameters(true);
        return encoder;
    }

    @Override
    protected NDList forwardInternal(
            ParameterStore parameters,
            NDList inputs,
            boolean training,
            PairList<String, Object> params) {
        NDArray ids = inputs.get(0);
        NDArray mask = inputs.size() > 1 ? inputs.get(1) : null;
        NDArray x = embed(parameters, ids, training);
        NDList state = new NDList(x);
        if (mask != null) {
            NDArray penalty = mask.sub(1).mul(Float.MAX_VALUE).expandDims(1).expandDims(1);
            state.add(penalty);
        }
        for (EncoderLayer layer : layers) {
            state.set(0, layer.forward(parameters, state, training).get(0));
        }
        return new NDList(pool(state.get(0), mask));
    }

    /** Returns the normalized embeddings of the tokens, [batch, tokens, hidden]. */
    NDArray embed(ParameterStore parameters, NDArray ids, boolean training) {
        // Gathered even where a slice would do: the result then belongs to the input's manager.
        NDArray positions =
                ids.getManager().arange(0, (int) ids.getShape().get(1), 1, DataType.INT64);
        NDArray sum =
                gather(parameters, word, ids, training)
                        .add(gather(parameters, position, positions, training))
                        .add(gather(parameters, tokenType, ids.zerosLike(), training));
        return embeddingNorm.forward(parameters, new NDList(sum), training).get(0);
    }

    private static NDArray gather(
            ParameterStore parameters, Parameter table, NDArray indices, boolean training) {
        NDArray weight = parameters.getValue(table, indices.getDevice(), training);
        return indices.getNDArrayInternal()
                .embedding(indices, weight, SparseFormat.DENSE)
                .singletonOrThrow();
    }

    /** Averages the tokens that the mask keeps and scales the result to length 1. */
    static NDArray pool(NDArray x, NDArray mask) {
        // The mean's divisor cancels in the normalization, so a sum will do.
        NDArray sum =
                mask == null ? x.sum(new int[] {1}) : x.mul(mask.expandDims(2)).sum(new int[] {1});
        return sum.normalize(2, 1);
    }

    /**
     * Returns the feed-forward layers by the names that their parameters start with, such as {@code
     * 02layer0_06intermediate}, in the order of the forward pass.
     */
    Map<String, Linear> getFeedForwardLayers() {
        Map<String, Linear> named = new LinkedHashMap<>();
        for (Pair<String, Block> child : getChildren()) {
            if (child.getValue() instanceof EncoderLayer layer) {
                for (Pair<String, Block> part : layer.getChildren()) {
                    if (part.getValue() == layer.getIntermediate()
                            || part.getValue() == layer.getOutput()) {
                        String name = child.getKey() + "_" + part.getKey();
                        named.put(name, (Linear) part.getValue());
                    }
                }
            }
        }
        return named;
    }

    List<EncoderLayer> getLayers() {
        return layers;
    }

    @Override
    protected void initializeChildBlocks(
            NDManager manager, DataType dataType, Shape... inputShapes) {
        Shape x = inputShapes[0].add(HIDDEN);
        embeddingNorm.initialize(manager, dataType, x);
        layers.forEach(layer -> layer.initialize(manager, dataType, x));
    }

    @Override
    public Shape[] getOutputShapes(Shape[] inputShapes) {
        return new Shape[] {new Shape(inputShapes[0].get(0), HIDDEN)};
    }

    private static Parameter weight(String name, Shape shape) {
        return Parameter.builder()
                .setName(name)
                .setType(Parameter.Type.WEIGHT)
                .optShape(shape)
                .build();
    }

    static LayerNorm layerNorm() {
        return LayerNorm.builder().axis(2).optEpsilon(EPSILON).build();
    }

    static void load(LayerNorm norm, OnnxWeights weights, String name) {
        set(norm.getParameters().get("gamma"), weights, name + ".weight");
        set(norm.getParameters().get("beta"), weights, name + ".bias");
    }

    /** Loads a linear layer whose bias is called NAME.bias and whose weight feeds /NAME/MatMul. */
    static void load(Linear linear, OnnxWeights weights, String name) {
        set(linear.getParameters().get("bias"), weights, name + ".bias");
        NDArray weight = linear.getParameters().get("weight").getArray();
        String node = "/" + name.replace('.', '/').replace("layer/", "layer.") + "/MatMul";
        Shape shape = weight.getShape();
        weight.set(weights.getLinear(node, (int) shape.get(0), (int) shape.get(1)));
    }

    private static void set(Parameter parameter, OnnxWeights weights, String name) {
        FloatBuffer values = weights.get(name, parameter.getShape().getShape());
        parameter.getArray().set(values);
    }
}
