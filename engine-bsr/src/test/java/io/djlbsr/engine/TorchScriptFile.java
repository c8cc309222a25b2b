/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

/** Writes TorchScript modules without parameters by hand, as {@code torch.jit.save} would. */
final class TorchScriptFile {

    /** An object of class __torch__.Module with the attribute training = false, as a pickle. */
    private static final String OBJECT =
            "\u0080\u0002c__torch__\nModule\n)\u0081}X\b\0\0\0training\u0089sb.";

    /** An empty tuple. */
    private static final String NO_CONSTANTS = "\u0080\u0002).";

    private TorchScriptFile() {}

    /**
     * Writes a module.
     *
     * @param file the file to write
     * @param forward the method {@code forward} in TorchScript, indented by two spaces
     */
    static void write(Path file, String forward) throws IOException {
        String code =
                "class Module(Module):\n"
                        + "  __parameters__ = []\n"
                        + "  __buffers__ = []\n"
                        + "  training : bool\n"
                        + forward;
        try (OutputStream out = Files.newOutputStream(file);
                ZipOutputStream zip = new ZipOutputStream(out)) {
            add(zip, "version", "3\n");
            add(zip, "data.pkl", OBJECT);
            add(zip, "constants.pkl", NO_CONSTANTS);
            add(zip, "code/__torch__.py", code);
        }
    }

    /** PyTorch reads stored entries alone. */
    private static void add(ZipOutputStream zip, String name, String content) throws IOException {
        byte[] bytes = content.getBytes(StandardCharsets.ISO_8859_1);
        CRC32 crc = new CRC32();
        crc.update(bytes);
        ZipEntry entry = new ZipEntry("module/" + name);
        entry.setMethod(ZipEntry.STORED);
        entry.setSize(bytes.length);
        entry.setCrc(crc.getValue());
        zip.putNextEntry(entry);
        zip.write(bytes);
        zip.closeEntry();
    }
}
