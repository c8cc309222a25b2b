/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrStructure;
import java.util.Objects;

/** What a {@link BsrLinear} computes apart from the values: its structure and activation. */
record BsrLinearSpec(
        long rows,
        int blockRows,
        int blockCols,
        BsrStructure knownStructure,
        BsrActivation activation) {

    BsrLinearSpec {
        Objects.requireNonNull(activation, "activation is null; use BsrActivation.NONE");
    }

    static BsrLinearSpec of(BsrStructure structure, long units, BsrActivation activation) {
        if (units != structure.getRows()) {
            throw new IllegalArgumentException(
                    "units is "
                            + units
                            + ", but the structure has "
                            + structure.getRows()
                            + " rows; leave setUnits out");
        }
        return new BsrLinearSpec(
                structure.getRows(),
                structure.getBlockRows(),
                structure.getBlockCols(),
                structure,
                activation);
    }

    /** A layer that takes its structure from the file that it loads. */
    static BsrLinearSpec ofBlockShape(
            long rows, int blockRows, int blockCols, BsrActivation activation) {
        if (rows < 1 || blockRows < 1 || blockCols < 1) {
            throw new IllegalArgumentException(
                    "no weight is set: call setMatrix, setStructure, or setUnits and setBlockShape"
                            + " with numbers of 1 or more (units is "
                            + rows
                            + ", block shape "
                            + blockRows
                            + "x"
                            + blockCols
                            + ")");
        }
        return new BsrLinearSpec(rows, blockRows, blockCols, null, activation);
    }

    boolean hasStructure() {
        return knownStructure != null;
    }

    BsrStructure structure() {
        if (knownStructure == null) {
            throw new IllegalStateException(
                    "the layer was built with a block shape alone and has no structure yet; load"
                            + " parameters, or build it with setStructure or setMatrix");
        }
        return knownStructure;
    }

    /** Returns the structure after checking the shape of an input against it; −1 is unknown. */
    BsrStructure checkInput(Shape input) {
        BsrStructure checked = structure();
        int rank = input.dimension();
        long last = rank == 0 ? 0 : input.get(rank - 1);
        if (rank == 0 || (last != checked.getCols() && last != -1)) {
            throw new IllegalArgumentException(
                    "input has shape "
                            + input
                            + "; its last dimension must be the weight's "
                            + checked.getCols()
                            + " columns");
        }
        return checked;
    }
}
