/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.SortedMap;

/** Writes BSR matrices as safetensors; {@link SafetensorsReader} tells the layout. */
final class SafetensorsWriter {

    private SafetensorsWriter() {}

    static void write(SortedMap<String, BsrMatrix> matrices, OutputStream stream)
            throws IOException {
        JsonObject metadata = new JsonObject();
        metadata.addProperty("format", "bsr");
        JsonObject header = new JsonObject();
        header.add(SafetensorsReader.METADATA, metadata);
        long end = 0;
        for (Map.Entry<String, BsrMatrix> entry : matrices.entrySet()) {
            String prefix = SafetensorsReader.prefix(entry.getKey());
            BsrStructure s = entry.getValue().getStructure();
            metadata.addProperty(prefix + "rows", Integer.toString(s.getRows()));
            metadata.addProperty(prefix + "cols", Integer.toString(s.getCols()));
            end = describe(header, prefix + "crow_indices", "I32", end, s.getBlockRowCount() + 1);
            end = describe(header, prefix + "col_indices", "I32", end, s.getNnzb());
            end =
                    describe(
                            header,
                            prefix + "values",
                            "F32",
                            end,
                            s.getNnzb(),
                            s.getBlockRows(),
                            s.getBlockCols());
        }
        byte[] json = header.toString().getBytes(StandardCharsets.UTF_8);
        // Padded with spaces so that the data is aligned when the file is mapped.
        int padded = (json.length + 7) / 8 * 8;
        OutputStream out = new BufferedOutputStream(stream, 1 << 16);
        out.write(
                ByteBuffer.allocate(Long.BYTES)
                        .order(ByteOrder.LITTLE_ENDIAN)
                        .putLong(padded)
                        .array());
        out.write(json);
        out.write(" ".repeat(padded - json.length).getBytes(StandardCharsets.US_ASCII));
        for (BsrMatrix matrix : matrices.values()) {
            ElementWriter.write(out, matrix.getStructure().getCrowIndices());
            ElementWriter.write(out, matrix.getStructure().getColIndices());
            ElementWriter.write(out, matrix.values());
        }
        out.flush();
    }

    /** Adds a tensor of four-byte elements to the header; gives the end of its data. */
    private static long describe(
            JsonObject header, String name, String dtype, long begin, int... shape) {
        JsonArray extents = new JsonArray();
        long elements = 1;
        for (int extent : shape) {
            extents.add(extent);
            elements *= extent;
        }
        long end = begin + elements * Integer.BYTES;
        JsonArray offsets = new JsonArray();
        offsets.add(begin);
        offsets.add(end);
        JsonObject tensor = new JsonObject();
        tensor.addProperty("dtype", dtype);
        tensor.add("shape", extents);
        tensor.add("data_offsets", offsets);
        header.add(name, tensor);
        return end;
    }
}
