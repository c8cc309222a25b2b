/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import ai.djl.Device;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import java.util.List;

/**
 * Finds the {@linkplain BsrOperator operators} on the class path and selects one.
 *
 * <p>Operators are found once, on first use, through {@link java.util.ServiceLoader} with this
 * class's loader and the context class loader. One that cannot be loaded is skipped, and its reason
 * kept for {@link #report}. {@link ReferenceBsrOperator} is always the last in the list.
 *
 * <p>The system property {@value #PROPERTY} forces an operator by its name. With it set, an
 * operator that does not serve the arrays is an error instead of a reason to try the next one.
 */
public final class BsrOperators {

    /** The system property that names the operator to use. */
    public static final String PROPERTY = "io.djlbsr.operator";

    private BsrOperators() {}

    /**
     * Returns the operator with the lowest rank that serves arrays of a manager's engine.
     *
     * <p>The first time that the reference operator is selected for an engine, device and data
     * type, a warning with the reasons of the others is logged.
     *
     * @param manager a manager of the engine
     * @param device the device of weight and input
     * @param dataType the data type of weight and input
     * @return the operator
     * @throws UnsupportedOperationException if no operator serves the arrays, or the one that
     *     {@value #PROPERTY} names does not
     * @throws IllegalArgumentException if {@value #PROPERTY} names an operator that is not there
     */
    public static BsrOperator select(NDManager manager, Device device, DataType dataType) {
        return Holder.REGISTRY.select(manager, device, dataType);
    }

    /**
     * Returns the operator in plain NDArray operations, whose results have gradients.
     *
     * @return the reference operator
     */
    public static BsrOperator reference() {
        return Holder.REGISTRY.reference();
    }

    /**
     * Tells for each operator that was found whether it serves arrays of a manager's engine, in the
     * order in which they are asked, then the ones that could not be loaded.
     *
     * @param manager a manager of the engine
     * @param device the device of weight and input
     * @param dataType the data type of weight and input
     * @return the operators and their reasons
     */
    public static List<OperatorStatus> report(NDManager manager, Device device, DataType dataType) {
        return Holder.REGISTRY.report(manager, device, dataType);
    }

    /** Defers the search to the first use. */
    private static final class Holder {
        static final OperatorRegistry REGISTRY =
                OperatorRegistry.discover(
                        BsrOperators.class.getClassLoader(),
                        Thread.currentThread().getContextClassLoader());
    }
}
