/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.FloatBuffer;

/** Writes elements in little-endian order, four bytes each, to a buffered stream. */
final class ElementWriter {

    private ElementWriter() {}

    static void write(OutputStream out, int[] elements) throws IOException {
        for (int element : elements) {
            writeLittleEndian(out, element);
        }
    }

    static void write(OutputStream out, FloatBuffer elements) throws IOException {
        while (elements.hasRemaining()) {
            writeLittleEndian(out, Float.floatToRawIntBits(elements.get()));
        }
    }

    private static void writeLittleEndian(OutputStream out, int bits) throws IOException {
        out.write(bits);
        out.write(bits >> 8);
        out.write(bits >> 16);
        out.write(bits >> 24);
    }
}
