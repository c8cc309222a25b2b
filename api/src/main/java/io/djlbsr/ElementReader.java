/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import ai.djl.util.Float16Utils;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * Reads the elements of a stored tensor as ints or floats, in small pieces so that no second copy
 * of the tensor is in memory.
 */
final class ElementReader {

    private static final int PIECE = 1 << 16;

    private final InputStream in;
    private final ElementType type;
    private final ByteBuffer buffer;

    ElementReader(InputStream in, ElementType type, ByteOrder order) {
        this.in = in;
        this.type = type;
        buffer = ByteBuffer.allocate(PIECE).order(order).limit(0);
    }

    /** Reads integers; one that does not fit an int is an IllegalArgumentException. */
    int[] readInts(int count) throws IOException {
        int[] result = new int[count];
        for (int k = 0; k < count; k++) {
            fill(count - k);
            if (type == ElementType.INT32) {
                result[k] = buffer.getInt();
            } else {
                long wide = buffer.getLong();
                if (wide != (int) wide) {
                    throw new IllegalArgumentException(
                            "element " + k + " is " + wide + ", which does not fit an int");
                }
                result[k] = (int) wide;
            }
        }
        return result;
    }

    /** Reads floats; FLOAT64 elements are rounded. */
    float[] readFloats(int count) throws IOException {
        float[] result = new float[count];
        for (int k = 0; k < count; k++) {
            fill(count - k);
            result[k] =
                    switch (type) {
                        case FLOAT16 -> Float16Utils.halfToFloat(buffer.getShort());
                        case BFLOAT16 -> Float.intBitsToFloat(buffer.getShort() << 16);
                        case FLOAT64 -> (float) buffer.getDouble();
                        default -> buffer.getFloat();
                    };
        }
        return result;
    }

    /** Makes sure that the buffer holds an element if {@code remaining} are still to be read. */
    private void fill(int remaining) throws IOException {
        if (buffer.hasRemaining()) {
            return;
        }
        int length = (int) Math.min(PIECE, (long) remaining * type.bytes);
        if (in.readNBytes(buffer.array(), 0, length) < length) {
            throw new EOFException("the data ends " + remaining + " elements or fewer too early");
        }
        buffer.position(0).limit(length);
    }
}
