/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonToken;
import com.google.gson.stream.MalformedJsonException;
import java.io.EOFException;
import java.io.IOException;
import java.io.StringReader;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Reads BSR matrices from a safetensors file: the length of a JSON header (8 bytes, little-endian),
 * the header, the data.
 *
 * <p>A matrix named {@code n} is the tensors {@code n.crow_indices}, {@code n.col_indices} and
 * {@code n.values} with the entries {@code n.rows} and {@code n.cols} in the metadata; the matrix
 * with the empty name has no prefix. Other tensors are left alone.
 */
final class SafetensorsReader implements AutoCloseable {

    static final String METADATA = "__metadata__";

    private static final String CROW = "crow_indices";

    /** The limit of the safetensors library. */
    private static final long MAX_HEADER = 100_000_000;

    private final Path path;
    private final FileChannel channel;
    private final JsonObject header;
    private final long dataStart;

    SafetensorsReader(Path path) throws IOException {
        this.path = path;
        channel = FileChannel.open(path);
        try {
            ByteBuffer length = ByteBuffer.allocate(Long.BYTES).order(ByteOrder.LITTLE_ENDIAN);
            if (channel.size() < Long.BYTES) {
                throw fail("header", "the file has " + channel.size() + " bytes, less than 8");
            }
            read(length);
            long size = length.getLong(0);
            long limit = Math.min(MAX_HEADER, channel.size() - Long.BYTES);
            if (size < 0 || size > limit) {
                throw fail(
                        "header",
                        "it claims "
                                + Long.toUnsignedString(size)
                                + " bytes; at most "
                                + limit
                                + " are possible: truncated, or no safetensors file");
            }
            ByteBuffer json = ByteBuffer.allocate((int) size);
            read(json);
            header = parse(new String(json.array(), StandardCharsets.UTF_8));
            dataStart = Long.BYTES + size;
        } catch (IOException | RuntimeException e) {
            channel.close();
            throw e;
        }
    }

    /** The name of a matrix as the prefix of its tensors. */
    static String prefix(String name) {
        return name.isEmpty() ? "" : name + ".";
    }

    private void read(ByteBuffer buffer) throws IOException {
        while (buffer.hasRemaining()) {
            if (channel.read(buffer) < 0) {
                throw fail("header", "the file shrank while it was read");
            }
        }
    }

    private JsonObject parse(String text) throws IOException {
        JsonReader reader = new JsonReader(new StringReader(text));
        try {
            JsonElement element = new Gson().getAdapter(JsonElement.class).read(reader);
            if (reader.peek() != JsonToken.END_DOCUMENT || !element.isJsonObject()) {
                throw fail("header", "it is no JSON object");
            }
            return element.getAsJsonObject();
        } catch (JsonParseException | MalformedJsonException | EOFException e) {
            throw new BsrFormatException(
                    path, "header", "it is no valid JSON; the file is damaged", e);
        }
    }

    private BsrFormatException fail(String member, String problem) {
        return new BsrFormatException(path, member, problem, null);
    }

    /** The names of the matrices in the file, in the order of the header. */
    List<String> names() {
        List<String> names = new ArrayList<>();
        for (String tensor : header.keySet()) {
            if (tensor.equals(CROW) || tensor.endsWith("." + CROW)) {
                String prefix = tensor.substring(0, tensor.length() - CROW.length());
                if (hasShape(prefix)) {
                    names.add(prefix.isEmpty() ? "" : prefix.substring(0, prefix.length() - 1));
                }
            }
        }
        return names;
    }

    /** Tells a BSR matrix from the indices of another format, such as CSR. */
    private boolean hasShape(String prefix) {
        return header.get(METADATA) instanceof JsonObject metadata && metadata.has(prefix + "rows");
    }

    BsrMatrix read(String name) throws IOException {
        String prefix = prefix(name);
        if (!header.has(prefix + CROW)) {
            throw fail(prefix + CROW, "missing; the file has BSR matrices named " + names());
        }
        Tensor crow = tensor(prefix + CROW, 1);
        Tensor col = tensor(prefix + "col_indices", 1);
        Tensor values = tensor(prefix + "values", 3);
        long rows = extent(prefix + "rows");
        long cols = extent(prefix + "cols");
        int[] crowIndices = crow.readInts();
        int[] colIndices = col.readInts();
        float[] elements = values.readFloats();
        try {
            BsrStructure structure =
                    BsrStructure.of(
                            rows, cols, values.shape[1], values.shape[2], crowIndices, colIndices);
            if (values.shape[0] != structure.getNnzb()) {
                throw new IllegalArgumentException(
                        "values holds "
                                + values.shape[0]
                                + " blocks, colIndices "
                                + structure.getNnzb());
            }
            return BsrMatrix.wrap(structure, elements);
        } catch (IllegalArgumentException e) {
            throw new BsrFormatException(
                    path,
                    prefix + "crow_indices, col_indices, values, rows, cols",
                    e.getMessage(),
                    e);
        }
    }

    private long extent(String key) throws IOException {
        String member = METADATA + "." + key;
        try {
            JsonObject metadata = header.getAsJsonObject(METADATA);
            if (metadata == null || !metadata.has(key)) {
                throw fail(member, "missing; it tells the shape of the matrix");
            }
            return Long.parseLong(metadata.get(key).getAsString());
        } catch (ClassCastException | IllegalStateException | IllegalArgumentException e) {
            throw new BsrFormatException(path, member, "it must be a whole number in quotes", e);
        }
    }

    /** Finds a tensor and checks its claims against the size of the file. */
    private Tensor tensor(String name, int dimensions) throws IOException {
        if (!header.has(name)) {
            throw fail(name, "missing");
        }
        try {
            JsonObject json = header.getAsJsonObject(name);
            ElementType type =
                    switch (json.get("dtype").getAsString()) {
                        case "I32" -> ElementType.INT32;
                        case "I64" -> ElementType.INT64;
                        case "F16" -> ElementType.FLOAT16;
                        case "BF16" -> ElementType.BFLOAT16;
                        case "F32" -> ElementType.FLOAT32;
                        case "F64" -> ElementType.FLOAT64;
                        default ->
                                throw fail(
                                        name,
                                        "dtype is "
                                                + json.get("dtype")
                                                + "; use I32 or I64 for indices, F32, F16, BF16 or"
                                                + " F64 for values");
                    };
            long[] shape = longs(json.getAsJsonArray("shape"));
            long[] offsets = longs(json.getAsJsonArray("data_offsets"));
            if (shape.length != dimensions || type.integer != (dimensions == 1)) {
                throw fail(
                        name,
                        "it has dtype "
                                + type
                                + " and shape "
                                + Arrays.toString(shape)
                                + "; indices must be integers [n], values floats [nnzb, blockRows,"
                                + " blockCols]");
            }
            long dataSize = channel.size() - dataStart;
            if (offsets.length != 2
                    || offsets[0] < 0
                    || offsets[1] < offsets[0]
                    || offsets[1] > dataSize) {
                throw fail(
                        name,
                        "data_offsets are "
                                + Arrays.toString(offsets)
                                + "; the data has "
                                + dataSize
                                + " bytes: truncated or damaged");
            }
            return new Tensor(name, type, intShape(name, shape), offsets);
        } catch (ArithmeticException
                | ClassCastException
                | IllegalStateException
                | NullPointerException
                | NumberFormatException e) {
            throw new BsrFormatException(
                    path, name, "its dtype, shape or data_offsets is missing or malformed", e);
        }
    }

    private static long[] longs(JsonArray array) {
        long[] longs = new long[array.size()];
        Arrays.setAll(longs, i -> array.get(i).getAsBigDecimal().longValueExact());
        return longs;
    }

    private int[] intShape(String name, long[] shape) throws IOException {
        long elements = 1;
        for (long extent : shape) {
            // Each factor and the product so far are ints, so the long never overflows.
            elements *= extent;
            if (extent < 0 || extent > Integer.MAX_VALUE || elements > BsrStructure.MAX_ELEMENTS) {
                throw fail(
                        name,
                        "shape is "
                                + Arrays.toString(shape)
                                + "; it must be 0 or more and at most "
                                + BsrStructure.MAX_ELEMENTS
                                + " elements");
            }
        }
        return Arrays.stream(shape).mapToInt(extent -> (int) extent).toArray();
    }

    @Override
    public void close() throws IOException {
        channel.close();
    }

    /** A tensor whose claims fit the file. */
    private final class Tensor {

        private final String name;
        private final ElementType type;
        private final int[] shape;
        private final int elements;
        private final long begin;

        Tensor(String name, ElementType type, int[] shape, long[] offsets) throws IOException {
            this.name = name;
            this.type = type;
            this.shape = shape;
            begin = offsets[0];
            elements = Arrays.stream(shape).reduce(1, (a, b) -> a * b);
            if (offsets[1] - begin != (long) elements * type.bytes) {
                throw fail(
                        name,
                        "data_offsets "
                                + Arrays.toString(offsets)
                                + " span "
                                + (offsets[1] - begin)
                                + " bytes; "
                                + type
                                + " of shape "
                                + Arrays.toString(shape)
                                + " needs "
                                + (long) elements * type.bytes);
            }
        }

        private ElementReader open() throws IOException {
            channel.position(dataStart + begin);
            return new ElementReader(
                    Channels.newInputStream(channel), type, ByteOrder.LITTLE_ENDIAN);
        }

        int[] readInts() throws IOException {
            try {
                return open().readInts(elements);
            } catch (IllegalArgumentException e) {
                throw new BsrFormatException(path, name, e.getMessage(), e);
            }
        }

        float[] readFloats() throws IOException {
            return open().readFloats(elements);
        }
    }
}
