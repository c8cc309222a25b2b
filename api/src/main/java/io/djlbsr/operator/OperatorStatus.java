/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import java.util.Optional;

/**
 * Whether an operator serves the arrays that {@link BsrOperators#report} was asked for.
 *
 * @param name the operator's name, or its provider entry if it could not be loaded
 * @param rejectionReason empty if it serves them, else the reason and the remedy
 */
public record OperatorStatus(String name, Optional<String> rejectionReason) {

    /**
     * Tells whether the operator serves the arrays.
     *
     * @return true if it does
     */
    public boolean serves() {
        return rejectionReason.isEmpty();
    }

    /** {@inheritDoc} */
    @Override
    public String toString() {
        return name + ": " + rejectionReason.orElse("serves");
    }
}
