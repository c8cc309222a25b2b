/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.MalformedModelException;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Parameter;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.UTFDataFormatException;
import java.nio.ByteBuffer;
import java.util.zip.CRC32;
import java.util.zip.CheckedInputStream;
import java.util.zip.CheckedOutputStream;

/**
 * The parameter file of a {@link BsrLinear}, big-endian:
 *
 * <pre>
 * byte   66                                   (a Linear's file starts with 1 to 4)
 * int    rows, cols, blockRows, blockCols, nnzb
 * byte   activation code
 * byte   1 if there is a bias, else 0
 * int[]  crow_indices, col_indices
 * int    rank of the leading input shape, −1 if unknown; long[] its dimensions
 * long   CRC-32 of the bytes from rows to here
 *        weight, then bias, as {@link Parameter#save} writes them
 * long   CRC-32 of these parameters
 * </pre>
 */
final class BsrLinearFormat {

    static final byte VERSION = 66;

    private static final int DENSE_VERSIONS = 4;

    private BsrLinearFormat() {}

    /** What stands before the parameters. */
    record Metadata(BsrLinearSpec spec, Shape leadingShape) {}

    /** What a file holds, in arrays of the manager that it was read with. */
    record Content(Metadata metadata, NDArray values, NDArray bias) {}

    static void writeMetadata(
            DataOutputStream os, BsrLinearSpec spec, boolean hasBias, Shape leadingShape)
            throws IOException {
        BsrStructure structure = spec.structure();
        CheckedOutputStream checked = new CheckedOutputStream(os, new CRC32());
        DataOutputStream out = new DataOutputStream(checked);
        out.writeInt(structure.getRows());
        out.writeInt(structure.getCols());
        out.writeInt(structure.getBlockRows());
        out.writeInt(structure.getBlockCols());
        out.writeInt(structure.getNnzb());
        out.writeByte(spec.activation().code());
        out.writeBoolean(hasBias);
        writeInts(out, structure.getCrowIndices());
        writeInts(out, structure.getColIndices());
        out.writeInt(leadingShape == null ? -1 : leadingShape.dimension());
        if (leadingShape != null) {
            for (long dimension : leadingShape.getShape()) {
                out.writeLong(dimension);
            }
        }
        out.flush();
        os.writeLong(checked.getChecksum().getValue());
    }

    private static void writeInts(DataOutputStream out, int[] values) throws IOException {
        ByteBuffer bytes = ByteBuffer.allocate(Math.multiplyExact(values.length, Integer.BYTES));
        bytes.asIntBuffer().put(values);
        out.write(bytes.array());
    }

    static void writeParameters(DataOutputStream os, Parameter weight, Parameter bias)
            throws IOException {
        CheckedOutputStream checked = new CheckedOutputStream(os, new CRC32());
        DataOutputStream out = new DataOutputStream(checked);
        weight.save(out);
        if (bias != null) {
            bias.save(out);
        }
        out.flush();
        os.writeLong(checked.getChecksum().getValue());
    }

    /** Reads a file of a BsrLinear or of a Linear for a layer with a spec. */
    static Content read(NDManager manager, DataInputStream is, BsrLinearSpec spec, boolean hasBias)
            throws IOException, MalformedModelException {
        // Arrays of a file that turns out to be damaged die with the scope.
        try (NDManager scope = manager.newSubManager()) {
            ArrayRecord.Position position = new ArrayRecord.Position("version");
            Content content;
            try {
                byte version = is.readByte();
                position.set("metadata");
                Metadata metadata = readMetadata(version, is, spec, hasBias);
                content =
                        version == VERSION
                                ? readBlocks(scope, is, metadata, hasBias, position)
                                : readDense(scope, is, metadata, hasBias, position);
            } catch (EOFException e) {
                throw new MalformedModelException(
                        "the parameters end within the " + position.get() + "; the file is cut off",
                        e);
            } catch (UTFDataFormatException e) {
                throw new MalformedModelException(
                        "a name within the " + position.get() + " is no text; the file is damaged",
                        e);
            }
            content.values().attach(manager);
            if (hasBias) {
                content.bias().attach(manager);
            }
            return content;
        }
    }

    private static Content readBlocks(
            NDManager manager,
            DataInputStream is,
            Metadata metadata,
            boolean hasBias,
            ArrayRecord.Position position)
            throws IOException, MalformedModelException {
        CheckedInputStream checked = new CheckedInputStream(is, new CRC32());
        DataInputStream in = new DataInputStream(checked);
        BsrStructure structure = metadata.spec().structure();
        Shape shape = ReferenceBsrOperator.valuesShape(structure);
        NDArray values = ArrayRecord.read(manager, in, "weight", shape, position);
        NDArray bias = null;
        if (hasBias) {
            bias = ArrayRecord.read(manager, in, "bias", new Shape(structure.getRows()), position);
        }
        long checksum = checked.getChecksum().getValue();
        position.set("checksum of the parameters");
        if (is.readLong() != checksum) {
            throw new MalformedModelException(
                    "the checksum of weight and bias is wrong; the file is damaged");
        }
        return new Content(metadata, values, bias);
    }

    private static Content readDense(
            NDManager manager,
            DataInputStream is,
            Metadata metadata,
            boolean hasBias,
            ArrayRecord.Position position)
            throws IOException, MalformedModelException {
        BsrLinearSpec spec = metadata.spec();
        long cols = spec.hasStructure() ? spec.structure().getCols() : -1;
        NDArray dense =
                ArrayRecord.read(manager, is, "weight", new Shape(spec.rows(), cols), position);
        BsrLinearSpec loaded = spec;
        if (!spec.hasStructure()) {
            loaded = BsrLinearSpec.of(structureOf(dense, spec), spec.rows(), spec.activation());
        }
        NDArray values = ReferenceBsrOperator.fromDense(manager, loaded.structure(), dense);
        long lost = countNonZero(dense) - countNonZero(values);
        if (lost != 0) {
            throw new MalformedModelException(
                    "the dense weight has "
                            + lost
                            + " non-zero elements outside the "
                            + loaded.structure().getNnzb()
                            + " blocks of the structure; build the BsrLinear with setBlockShape"
                            + " to keep them all, or set them to zero before saving");
        }
        NDArray bias = null;
        if (hasBias) {
            bias = ArrayRecord.read(manager, is, "bias", new Shape(spec.rows()), position);
        } else if (ArrayRecord.isNext(is, "bias")) {
            throw new MalformedModelException(
                    "the file holds a bias, but the layer has none; build the layer with"
                            + " optBias(true)");
        }
        return new Content(new Metadata(loaded, metadata.leadingShape()), values, bias);
    }

    /** The non-zero blocks, or one block where the block shape does not divide the weight. */
    private static BsrStructure structureOf(NDArray dense, BsrLinearSpec spec) {
        int rows = Math.toIntExact(dense.getShape().get(0));
        int cols = Math.toIntExact(dense.getShape().get(1));
        boolean divides = rows % spec.blockRows() == 0 && cols % spec.blockCols() == 0;
        return DenseLinears.structureOf(
                dense, divides ? spec.blockRows() : rows, divides ? spec.blockCols() : cols, 0);
    }

    private static long countNonZero(NDArray array) {
        if (array.isEmpty()) {
            return 0;
        }
        try (NDManager scope = array.getManager().newSubManager()) {
            NDArray nonZero = array.neq(0);
            nonZero.attach(scope);
            return nonZero.toType(DataType.INT64, false).sum().getLong();
        }
    }

    static Metadata readMetadata(
            byte version, DataInputStream is, BsrLinearSpec spec, boolean hasBias)
            throws IOException, MalformedModelException {
        if (version == VERSION) {
            return readBlockMetadata(is, spec, hasBias);
        }
        if (version >= 1 && version <= DENSE_VERSIONS) {
            return new Metadata(spec, readDenseMetadata(version, is));
        }
        throw new MalformedModelException(
                "the parameters start with version "
                        + version
                        + "; a BsrLinear has "
                        + VERSION
                        + " and a Linear 1 to "
                        + DENSE_VERSIONS
                        + ": the file is of another block or damaged");
    }

    private static Metadata readBlockMetadata(
            DataInputStream is, BsrLinearSpec spec, boolean hasBias)
            throws IOException, MalformedModelException {
        CheckedInputStream checked = new CheckedInputStream(is, new CRC32());
        DataInputStream in = new DataInputStream(checked);
        int rows = in.readInt();
        int cols = in.readInt();
        int blockRows = in.readInt();
        int blockCols = in.readInt();
        int nnzb = in.readInt();
        int activation = in.readByte();
        int bias = in.readByte();
        if (rows < 0 || cols < 0 || blockRows < 1 || blockCols < 1 || nnzb < 0) {
            throw damaged("negative sizes", null);
        }
        int[] crowIndices = readInts(in, rows / blockRows + 1);
        int[] colIndices = readInts(in, nnzb);
        int rank = in.readInt();
        Shape leadingShape = rank == -1 ? null : readDimensions(in, rank);
        long checksum = checked.getChecksum().getValue();
        if (is.readLong() != checksum) {
            throw damaged("a wrong checksum", null);
        }
        checkFits(rows, cols, bias == 1, spec, hasBias);
        try {
            BsrStructure structure =
                    BsrStructure.of(rows, cols, blockRows, blockCols, crowIndices, colIndices);
            BsrLinearSpec loaded =
                    BsrLinearSpec.of(structure, rows, BsrActivation.ofCode(activation));
            return new Metadata(loaded, leadingShape);
        } catch (IllegalArgumentException e) {
            throw damaged("an invalid structure: " + e.getMessage(), e);
        }
    }

    private static MalformedModelException damaged(String what, Throwable cause) {
        return new MalformedModelException(
                "the metadata has " + what + "; the file is damaged", cause);
    }

    private static void checkFits(
            int rows, int cols, boolean fileHasBias, BsrLinearSpec spec, boolean hasBias)
            throws MalformedModelException {
        if (rows != spec.rows()) {
            throw new MalformedModelException(
                    "the file holds a weight with "
                            + rows
                            + " rows, but the layer has "
                            + spec.rows()
                            + "; build the layer with as many units");
        }
        if (spec.hasStructure() && cols != spec.structure().getCols()) {
            throw new MalformedModelException(
                    "the file holds a weight with "
                            + cols
                            + " columns, but the layer has "
                            + spec.structure().getCols()
                            + "; build the layer with a structure of as many columns");
        }
        if (fileHasBias != hasBias) {
            throw new MalformedModelException(
                    "the file holds "
                            + (fileHasBias ? "a bias" : "no bias")
                            + ", but the layer has "
                            + (hasBias ? "one" : "none")
                            + "; build the layer with optBias("
                            + fileHasBias
                            + ")");
        }
    }

    private static int[] readInts(DataInputStream in, int count)
            throws IOException, MalformedModelException {
        if (count > Integer.MAX_VALUE / Integer.BYTES) {
            throw damaged(count + " indices", null);
        }
        // Grows with what is really there, so that a damaged count cannot exhaust the memory.
        byte[] bytes = in.readNBytes(count * Integer.BYTES);
        if (bytes.length < count * Integer.BYTES) {
            throw new EOFException();
        }
        int[] values = new int[count];
        ByteBuffer.wrap(bytes).asIntBuffer().get(values);
        return values;
    }

    private static Shape readDenseMetadata(byte version, DataInputStream is)
            throws IOException, MalformedModelException {
        if (version >= 3) {
            is.readLong(); // units: the weight tells
        }
        if ((version == 2 || version == 3) && is.readBoolean()) {
            throw new MalformedModelException("the Linear flattens its input; this is not served");
        }
        if (version == 1) {
            ArrayRecord.readShape(is);
        } else {
            is.readLong(); // input features: the weight tells
        }
        return ArrayRecord.readShape(is);
    }

    static Shape readDimensions(DataInputStream in, int rank)
            throws IOException, MalformedModelException {
        if (rank < 0 || rank > ArrayRecord.MAX_RANK) {
            throw new MalformedModelException("a shape has rank " + rank + "; the file is damaged");
        }
        long[] dimensions = new long[rank];
        for (int i = 0; i < rank; i++) {
            dimensions[i] = in.readLong();
            if (dimensions[i] < -1) {
                throw new MalformedModelException(
                        "a shape has dimension " + dimensions[i] + "; the file is damaged");
            }
        }
        return new Shape(dimensions);
    }

    /**
     * Replaces the array of a parameter. The old one stays open until its manager closes, because
     * other threads may be using it; {@link Parameter#load} is the one way to do that. It takes a
     * copy in host memory while it runs.
     */
    static void replaceArray(Parameter parameter, NDManager manager, NDArray array)
            throws IOException, MalformedModelException {
        if (!parameter.isInitialized()) {
            DenseLinears.setArray(parameter, array);
            return;
        }
        try (array) {
            array.setName(parameter.getName());
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            Parameter carrier =
                    Parameter.builder()
                            .setName(parameter.getName())
                            .setType(parameter.getType())
                            .optArray(array)
                            .build();
            carrier.save(new DataOutputStream(bytes));
            parameter.load(
                    manager, new DataInputStream(new ByteArrayInputStream(bytes.toByteArray())));
        }
    }
}
