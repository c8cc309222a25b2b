/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.ZipEntry;

/** The header of a stored NumPy array ({@code numpy.lib.format}), and what it claims. */
final class NpyHeader {

    static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y'};

    /** NumPy's own limit. */
    private static final int MAX_HEADER = 10_000;

    /** The most bytes that one byte of deflated data can stand for. */
    private static final long MAX_INFLATION = 1032;

    private static final Pattern DESCR = Pattern.compile("'descr'\\s*:\\s*'([^']*)'");
    private static final Pattern ORDER = Pattern.compile("'fortran_order'\\s*:\\s*(True|False)");
    private static final Pattern SHAPE = Pattern.compile("'shape'\\s*:\\s*\\(([\\d\\s,]*)\\)");

    final String descr;
    final boolean fortranOrder;
    final int[] shape;
    private final int headerBytes;

    private NpyHeader(String descr, boolean fortranOrder, int[] shape, int headerBytes) {
        this.descr = descr;
        this.fortranOrder = fortranOrder;
        this.shape = shape;
        this.headerBytes = headerBytes;
    }

    static NpyHeader read(InputStream stream) throws IOException {
        DataInputStream in = new DataInputStream(stream);
        byte[] start = new byte[MAGIC.length + 2];
        in.readFully(start);
        int version = start[MAGIC.length];
        if (!Arrays.equals(MAGIC, Arrays.copyOf(start, MAGIC.length))
                || version < 1
                || version > 3) {
            throw new IllegalArgumentException("not a NumPy array of version 1, 2 or 3");
        }
        int length =
                version == 1
                        ? Short.toUnsignedInt(Short.reverseBytes(in.readShort()))
                        : Integer.reverseBytes(in.readInt());
        if (length < 0 || length > MAX_HEADER) {
            throw new IllegalArgumentException(
                    "the header claims "
                            + Integer.toUnsignedString(length)
                            + " bytes; the limit is "
                            + MAX_HEADER);
        }
        byte[] bytes = new byte[length];
        in.readFully(bytes);
        String text = new String(bytes, StandardCharsets.ISO_8859_1);
        int headerBytes = start.length + (version == 1 ? 2 : 4) + length;
        return new NpyHeader(
                find(DESCR, text),
                find(ORDER, text).equals("True"),
                parseShape(find(SHAPE, text)),
                headerBytes);
    }

    private static String find(Pattern pattern, String text) {
        Matcher matcher = pattern.matcher(text);
        if (!matcher.find()) {
            throw new IllegalArgumentException(
                    "no " + pattern + " in the header \"" + text.strip() + "\"");
        }
        return matcher.group(1);
    }

    private static int[] parseShape(String text) {
        List<Integer> shape = new ArrayList<>();
        for (String extent : text.split(",", -1)) {
            if (!extent.isBlank()) {
                try {
                    shape.add(Integer.parseInt(extent.strip()));
                } catch (NumberFormatException e) {
                    throw new IllegalArgumentException(
                            "the shape (" + text + ") has an extent that is no int", e);
                }
            }
        }
        return shape.stream().mapToInt(Integer::intValue).toArray();
    }

    ElementType type() {
        return switch (descr.replaceFirst("^[<>=|]", "")) {
            case "i4" -> ElementType.INT32;
            case "i8" -> ElementType.INT64;
            case "f2" -> ElementType.FLOAT16;
            case "f4" -> ElementType.FLOAT32;
            case "f8" -> ElementType.FLOAT64;
            default ->
                    throw new IllegalArgumentException(
                            this
                                    + "; indices must be int32 or int64, data float32, float64"
                                    + " or float16");
        };
    }

    ByteOrder order() {
        return descr.startsWith(">") ? ByteOrder.BIG_ENDIAN : ByteOrder.LITTLE_ENDIAN;
    }

    /** The product of the shape, or a number too large for an array. */
    long elements() {
        long elements = 1;
        for (int extent : shape) {
            elements = Math.multiplyExact(elements, (long) extent);
        }
        return elements;
    }

    /** Checks the claimed size against the bytes that are there, before memory is taken. */
    void checkSize(ZipEntry entry, long fileSize) {
        if (descr.matches("[|<>=]?[SUb]\\d{1,3}")) {
            return;
        }
        long elements;
        try {
            elements = elements();
        } catch (ArithmeticException e) {
            elements = Long.MAX_VALUE;
        }
        if (elements > BsrStructure.MAX_ELEMENTS) {
            throw new IllegalArgumentException(
                    this + " has more than " + BsrStructure.MAX_ELEMENTS + " elements");
        }
        long bytes = headerBytes + elements * type().bytes;
        long stored = Math.min(entry.getCompressedSize(), fileSize);
        if (bytes != entry.getSize() || bytes > stored * MAX_INFLATION) {
            throw new IllegalArgumentException(
                    String.format(
                            Locale.ROOT,
                            "%s needs %d bytes; the member has %d, %d compressed",
                            this,
                            bytes,
                            entry.getSize(),
                            stored));
        }
    }

    @Override
    public String toString() {
        return "an array of type '" + descr + "' and shape " + Arrays.toString(shape);
    }
}
