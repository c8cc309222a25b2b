/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.TypeConversionException;

/** The shape of a block, written ROWSxCOLS. */
record BlockShape(int rows, int cols) {

    private static final Pattern FORMAT = Pattern.compile("(\\d{1,5})x(\\d{1,5})");

    /**
     * Parses ROWSxCOLS.
     *
     * @throws IllegalArgumentException if the text is something else, or a number is 0
     */
    static BlockShape parse(String text) {
        Matcher matcher = FORMAT.matcher(text);
        if (!matcher.matches()) {
            throw new IllegalArgumentException(
                    "'" + text + "' is no block shape; write ROWSxCOLS, for example 32x32");
        }
        BlockShape shape =
                new BlockShape(
                        Integer.parseInt(matcher.group(1)), Integer.parseInt(matcher.group(2)));
        if (shape.rows == 0 || shape.cols == 0) {
            throw new IllegalArgumentException("'" + text + "': a block has at least 1 element");
        }
        return shape;
    }

    @Override
    public String toString() {
        return rows + "x" + cols;
    }

    /** Reads one from a command line. */
    static final class Converter implements ITypeConverter<BlockShape> {

        @Override
        public BlockShape convert(String value) {
            try {
                return parse(value);
            } catch (IllegalArgumentException e) {
                throw new TypeConversionException(e.getMessage());
            }
        }
    }
}
