/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.MalformedModelException;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;

/**
 * Reads what {@link ai.djl.nn.Parameter#save} writes, and checks each field before it is used.
 *
 * <p>{@code Parameter.load} trusts the file: a damaged shape or length exhausts the memory, and
 * BFLOAT16 ends the JVM.
 */
final class ArrayRecord {

    static final int MAX_RANK = 32;

    private static final int CHUNK = 1 << 16;

    private ArrayRecord() {}

    /** What is being read, for the message if the file ends there. */
    static final class Position {
        private String name;

        Position(String name) {
            this.name = name;
        }

        void set(String part) {
            name = part;
        }

        String get() {
            return name;
        }
    }

    /**
     * Reads an array.
     *
     * @param expected its shape, with −1 for a dimension that may be any
     */
    static NDArray read(
            NDManager manager, DataInputStream in, String name, Shape expected, Position position)
            throws IOException, MalformedModelException {
        position.set(name);
        char magic = in.readChar();
        if (magic == 'N') {
            throw new MalformedModelException(
                    name + " was saved before it was initialized; initialize the layer, then save");
        }
        if (magic != 'P' || in.readByte() != 1) {
            throw malformed(
                    name, "no parameter stands there; was the layer saved with another optBias?");
        }
        String found = in.readUTF();
        if (!found.equals(name)) {
            throw malformed(name, "the parameter that stands there is named " + found);
        }
        if (!"NDAR".equals(in.readUTF())) {
            throw malformed(name, "no array stands there");
        }
        int version = in.readInt();
        if (version < 1 || version > 3) {
            throw malformed(name, "its array has version " + version + "; 1 to 3 are known");
        }
        if (version > 1 && in.readByte() == 1) {
            in.readUTF(); // the array's name, which is the parameter's
        }
        in.readUTF(); // the sparse format, which is always DENSE
        DataType dataType = dataType(name, in.readUTF());
        Shape shape = readShape(in);
        checkShape(name, shape, expected);
        ByteOrder order = ByteOrder.nativeOrder();
        if (version > 2) {
            order = in.readByte() == '>' ? ByteOrder.BIG_ENDIAN : ByteOrder.LITTLE_ENDIAN;
        }
        int length = in.readInt();
        if (length < 0 || length != bytes(name, shape, dataType)) {
            throw malformed(name, "its " + shape + " " + dataType + " have " + length + " bytes");
        }
        ByteBuffer data = readData(in, length).order(ByteOrder.nativeOrder());
        if (order != ByteOrder.nativeOrder()) {
            // The engine ignores the order of a buffer.
            reverse(data, dataType.getNumOfBytes());
        }
        return manager.create(data, shape, dataType);
    }

    /** Tells whether a record with a name is next, as far as the stream can be looked into. */
    static boolean isNext(DataInputStream in, String name) throws IOException {
        if (!in.markSupported()) {
            return false;
        }
        ByteArrayOutputStream start = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(start);
        out.writeChar('P');
        out.writeByte(1);
        out.writeUTF(name);
        in.mark(start.size());
        byte[] found = in.readNBytes(start.size());
        in.reset();
        return Arrays.equals(found, start.toByteArray());
    }

    private static void reverse(ByteBuffer data, int elementBytes) {
        byte[] element = new byte[elementBytes];
        for (int i = 0; i < data.limit(); i += elementBytes) {
            for (int k = 0; k < elementBytes; k++) {
                element[k] = data.get(i + elementBytes - 1 - k);
            }
            data.put(i, element);
        }
    }

    private static MalformedModelException malformed(String name, String what) {
        return new MalformedModelException(name + " cannot be read: " + what);
    }

    private static DataType dataType(String name, String found) throws MalformedModelException {
        try {
            DataType dataType = DataType.valueOf(found);
            ReferenceBsrOperator.checkDataType(name, dataType);
            return dataType;
        } catch (IllegalArgumentException | UnsupportedOperationException e) {
            throw new MalformedModelException(
                    name + " has data type " + found + "; save it as FLOAT16, FLOAT32 or FLOAT64",
                    e);
        }
    }

    private static void checkShape(String name, Shape shape, Shape expected)
            throws MalformedModelException {
        boolean fits = shape.dimension() == expected.dimension();
        for (int i = 0; fits && i < shape.dimension(); i++) {
            fits = expected.get(i) == -1 ? shape.get(i) >= 0 : shape.get(i) == expected.get(i);
        }
        if (!fits) {
            throw new MalformedModelException(
                    name + " has shape " + shape + " in the file; the layer needs " + expected);
        }
    }

    private static long bytes(String name, Shape shape, DataType dataType)
            throws MalformedModelException {
        long bytes = dataType.getNumOfBytes();
        try {
            for (long dimension : shape.getShape()) {
                bytes = Math.multiplyExact(bytes, dimension);
            }
        } catch (ArithmeticException e) {
            throw malformed(name, "its shape " + shape + " is too large");
        }
        return bytes;
    }

    static Shape readShape(DataInputStream in) throws IOException, MalformedModelException {
        Shape shape = BsrLinearFormat.readDimensions(in, in.readInt());
        int layouts = in.readInt();
        if (layouts < 0 || layouts > MAX_RANK) {
            throw new MalformedModelException(
                    "a shape has " + layouts + " layout letters; the file is damaged");
        }
        for (int i = 0; i < layouts; i++) {
            in.readChar();
        }
        return shape;
    }

    /** Reads to a direct buffer, which the engine adopts or copies from without a Java array. */
    private static ByteBuffer readData(DataInputStream in, int length) throws IOException {
        ByteBuffer data = ByteBuffer.allocateDirect(length);
        byte[] chunk = new byte[Math.min(CHUNK, length)];
        while (data.hasRemaining()) {
            int count = Math.min(chunk.length, data.remaining());
            in.readFully(chunk, 0, count);
            data.put(chunk, 0, count);
        }
        return data.flip();
    }
}
