/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.io.IOException;
import java.nio.file.Path;

/**
 * Thrown when a file that should hold BSR matrices is truncated, corrupt, of another format or
 * holds an invalid matrix. The message names the file, the member of it and the problem.
 */
public final class BsrFormatException extends IOException {

    private static final long serialVersionUID = 1L;

    /**
     * Makes an exception.
     *
     * @param file the file
     * @param member the member of the file, such as {@code indptr.npy}
     * @param problem what is wrong with it, and the remedy if there is one
     * @param cause the exception behind it, or null
     */
    public BsrFormatException(Path file, String member, String problem, Throwable cause) {
        super(file + ": " + member + ": " + problem, cause);
    }
}
