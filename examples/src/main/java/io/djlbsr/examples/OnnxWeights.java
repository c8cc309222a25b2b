/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.onnx.proto.OnnxMl.ModelProto;
import ai.onnx.proto.OnnxMl.NodeProto;
import ai.onnx.proto.OnnxMl.TensorProto;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/**
 * The float weights of an ONNX model, by name.
 *
 * <p>Exporters keep the names of biases and embeddings but fold and rename the weights of linear
 * layers ({@code onnx::MatMul_885}). Those are found through the {@code MatMul} node that consumes
 * them, whose name still tells the layer.
 */
final class OnnxWeights {

    private final Map<String, TensorProto> initializers = new HashMap<>();
    private final Map<String, NodeProto> nodes = new HashMap<>();

    private OnnxWeights(ModelProto model) {
        model.getGraph().getInitializerList().forEach(t -> initializers.put(t.getName(), t));
        model.getGraph().getNodeList().forEach(n -> nodes.put(n.getName(), n));
    }

    /**
     * Reads a model.
     *
     * @param model the bytes of the ONNX file
     * @throws IOException if this is no ONNX file
     */
    static OnnxWeights parse(byte[] model) throws IOException {
        return new OnnxWeights(ModelProto.parseFrom(model));
    }

    /**
     * Returns a named weight.
     *
     * @param name the initializer's name
     * @param shape the expected shape
     * @return the values, row-major
     * @throws IllegalArgumentException if there is none, or it is not a float array of this shape
     */
    FloatBuffer get(String name, long... shape) {
        TensorProto tensor = initializers.get(name);
        if (tensor == null) {
            throw new IllegalArgumentException("the model has no weight named " + name);
        }
        long[] dims = tensor.getDimsList().stream().mapToLong(Long::longValue).toArray();
        if (tensor.getDataType() != TensorProto.DataType.FLOAT.getNumber()
                || !Arrays.equals(dims, shape)) {
            throw new IllegalArgumentException(
                    "the weight %s has ONNX type %d and shape %s; expected FLOAT and %s"
                            .formatted(
                                    name,
                                    tensor.getDataType(),
                                    Arrays.toString(dims),
                                    Arrays.toString(shape)));
        }
        ByteBuffer raw = tensor.getRawData().asReadOnlyByteBuffer();
        return raw.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
    }

    /**
     * Returns the weight of a linear layer, transposed from ONNX's [in, out] to [out, in].
     *
     * @param node the name of the {@code MatMul} node that consumes it
     * @param out the number of output features
     * @param in the number of input features
     * @return the values, row-major [out, in]
     * @throws IllegalArgumentException if there is no such node or weight
     */
    FloatBuffer getLinear(String node, int out, int in) {
        NodeProto matMul = nodes.get(node);
        if (matMul == null || matMul.getInputCount() != 2) {
            throw new IllegalArgumentException("the model has no MatMul node named " + node);
        }
        FloatBuffer source = get(matMul.getInput(1), in, out);
        float[] weight = new float[out * in];
        for (int i = 0; i < in; ++i) {
            for (int o = 0; o < out; ++o) {
                weight[o * in + i] = source.get(i * out + o);
            }
        }
        return FloatBuffer.wrap(weight);
    }
}
