/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.MalformedModelException;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import ai.djl.util.PairList;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.BsrOperators;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.CostEstimate;
import io.djlbsr.operator.ReferenceBsrOperator;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.TreeMap;

/**
 * A drop-in for {@link Linear} whose weight is block-sparse: {@code y = act(x · Wᵀ + bias)}.
 *
 * <ul>
 *   <li>input x: [..., cols], FLOAT16, FLOAT32 or FLOAT64
 *   <li>parameter {@code weight}: the blocks of W, [nnzb, blockRows, blockCols]
 *   <li>parameter {@code bias}: [rows]
 *   <li>output y: [..., rows]
 * </ul>
 *
 * <p>The positions of the blocks are fixed and are saved with the parameters. Inference takes the
 * fastest operator that {@link BsrOperators} finds for the device and data type, and packs the
 * weight for it on first use; any number of threads may run it at once. Where a dense product is
 * predicted to be faster it runs that one, as {@link BsrExecution} tells. Training uses
 * differentiable NDArray operations.
 *
 * <p>{@link #loadParameters} reads a file of this block or of a {@link Linear}. The file of this
 * block replaces structure and activation as well. From the file of a {@code Linear} it takes the
 * blocks of the structure, and fails if another element is not zero; if this block was built with a
 * block shape alone, it keeps each block that is not zero; a weight that the block shape does not
 * divide becomes one block.
 */
public class BsrLinear extends Linear {

    private final Parameter weight;
    private final Parameter bias;
    private final PackedWeights inferenceWeights;
    private final PackedWeights trainingWeights;
    private final BsrWeightFormat weightFormat;

    private final SpecHistory specs;
    private volatile BsrExecution execution;
    private Shape leadingShape;
    private BsrMatrix initialMatrix;
    private double[] initialBias;

    /**
     * Constructs a layer.
     *
     * @param builder the settings
     */
    @SuppressWarnings("this-escape")
    protected BsrLinear(Builder builder) {
        super(builder);
        version = BsrLinearFormat.VERSION;
        weight = parameters.get("weight");
        bias = parameters.get("bias");
        specs = new SpecHistory(weight, bias, builder.spec);
        initialMatrix = builder.matrix;
        initialBias = builder.initialBias;
        execution = BsrExecution.override().orElse(builder.execution);
        inferenceWeights =
                new PackedWeights(
                        values ->
                                BsrOperators.select(
                                        values.getManager(),
                                        values.getDevice(),
                                        values.getDataType()),
                        () -> execution,
                        builder.weightFormat);
        trainingWeights =
                new PackedWeights(
                        values -> BsrOperators.reference(),
                        () -> BsrExecution.BSR,
                        BsrWeightFormat.AS_GIVEN);
        weightFormat = builder.weightFormat;
    }

    /**
     * Creates a builder.
     *
     * @return a new builder
     */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Converts a dense layer: keeps the blocks with an element {@code |w| > tolerance} or NaN.
     *
     * <p>The result has its own arrays, in the manager and data type of the dense layer's, and the
     * dense layer's frozen state. With tolerance 0 it computes the same function of finite inputs;
     * NaN and Inf in an input do not reach the rows whose blocks do not touch them.
     *
     * @param dense the layer, whose parameters have arrays; it is not changed
     * @param blockRows the rows of a block, a divisor of the weight's rows
     * @param blockCols the columns of a block, a divisor of the weight's columns
     * @param tolerance the largest absolute value that counts as zero
     * @return the block-sparse layer
     * @throws IllegalStateException if the dense layer has no arrays
     * @throws IllegalArgumentException if the blocks do not divide the weight or the tolerance is
     *     negative or NaN
     */
    public static BsrLinear fromLinear(
            Linear dense, int blockRows, int blockCols, float tolerance) {
        return DenseLinears.toBsr(dense, blockRows, blockCols, tolerance);
    }

    /**
     * Replaces the weight of a dense layer, for example by its pruned form, and keeps the rest: its
     * bias, data type, manager and frozen state.
     *
     * @param dense the layer, whose parameters have arrays; it is not changed
     * @param matrix the new weight
     * @return the block-sparse layer
     * @throws IllegalStateException if the dense layer has no arrays
     * @throws IllegalArgumentException if {@code matrix} has another shape than the weight
     */
    public static BsrLinear fromLinear(Linear dense, BsrMatrix matrix) {
        return DenseLinears.toBsr(dense, matrix);
    }

    /**
     * Converts this layer to a dense one. The activation is not part of the result.
     *
     * @param manager the manager of its arrays
     * @return a dense layer with the same weight and bias
     * @throws IllegalStateException if this layer has no arrays
     */
    public Linear toLinear(NDManager manager) {
        return specs.read(
                () -> {
                    DenseLinears.weightOf(this);
                    return DenseLinears.toDense(this, manager);
                });
    }

    /**
     * Returns the block structure.
     *
     * @return the structure
     * @throws IllegalStateException if the layer was built with a block shape alone and has not
     *     loaded parameters yet
     */
    public BsrStructure getStructure() {
        return specs.current().structure();
    }

    /**
     * Returns the activation.
     *
     * @return the activation
     */
    public BsrActivation getActivation() {
        return specs.current().activation();
    }

    /**
     * Returns how inference keeps the weight.
     *
     * @return the format
     */
    public BsrWeightFormat getWeightFormat() {
        return weightFormat;
    }

    /**
     * Returns how inference calls are computed.
     *
     * @return {@link BsrExecution#AUTO} unless it was set otherwise
     */
    public BsrExecution getExecution() {
        return execution;
    }

    /**
     * Sets how inference calls are computed from now on. It is not saved with the parameters. An
     * override for all layers, see {@link BsrExecution}, prevails.
     *
     * @param execution how
     */
    public void setExecution(BsrExecution execution) {
        Objects.requireNonNull(execution, "execution is null; use BsrExecution.AUTO");
        this.execution = BsrExecution.override().orElse(execution);
    }

    /**
     * Predicts the time of an inference call on the device of the weight's array, which it packs if
     * no call did so yet.
     *
     * @param tokens the product of the input's leading dimensions
     * @return the prediction, or empty if the operator has no model of its times
     * @throws IllegalStateException if the layer has no arrays
     * @throws IllegalArgumentException if {@code tokens} is negative
     */
    public Optional<CostEstimate> estimate(long tokens) {
        return specs.read(
                () ->
                        inferenceWeights.estimate(
                                DenseLinears.weightOf(this), specs.current(), tokens));
    }

    /** Predicts calls with several numbers of tokens; those without a prediction are left out. */
    final Map<Long, CostEstimate> estimates(List<Long> tokens) {
        Map<Long, CostEstimate> estimates = new TreeMap<>();
        for (long count : tokens) {
            estimate(count).ifPresent(estimate -> estimates.put(count, estimate));
        }
        return Collections.unmodifiableMap(estimates);
    }

    /**
     * Returns the current weight.
     *
     * @return a copy of the weight, rounded to float where it is FLOAT64
     * @throws IllegalStateException if the layer has no values yet
     */
    public BsrMatrix getMatrix() {
        return specs.read(this::currentMatrix);
    }

    private BsrMatrix currentMatrix() {
        if (!weight.isInitialized() && initialMatrix != null) {
            return initialMatrix;
        }
        NDArray array = DenseLinears.weightOf(this);
        try (NDManager scope = array.getManager().newSubManager()) {
            NDArray values = array.stopGradient();
            values.attach(scope);
            return BsrMatrix.of(
                    getStructure(), values.toType(DataType.FLOAT32, false).toFloatArray());
        }
    }

    /**
     * Returns the memory that the packed and densified forms of the weight take, beside the
     * parameter itself.
     *
     * @return the size in bytes, over all devices
     */
    public long getPackedBytes() {
        return inferenceWeights.getPackedBytes() + trainingWeights.getPackedBytes();
    }

    /** {@inheritDoc} */
    @Override
    protected NDList forwardInternal(
            ParameterStore parameterStore,
            NDList inputs,
            boolean training,
            PairList<String, Object> params) {
        NDArray input = inputs.singletonOrThrow();
        PackedWeights packed = training ? trainingWeights : inferenceWeights;
        SpecHistory.Arguments arguments =
                specs.arguments(parameterStore, input.getDevice(), training);
        return new NDList(
                packed.linear(arguments.values(), arguments.spec(), input, arguments.bias()));
    }

    /** {@inheritDoc} */
    @Override
    public void initialize(NDManager manager, DataType dataType, Shape... inputShapes) {
        ReferenceBsrOperator.checkDataType("dataType", dataType);
        if (inputShapes.length != 1) {
            throw new IllegalArgumentException(
                    "inputShapes has " + inputShapes.length + " shapes; a BsrLinear has one input");
        }
        specs.current().checkInput(inputShapes[0]);
        if (!weight.isInitialized()) {
            NDArray values =
                    initialMatrix == null
                            ? DenseLinears.initialValues(
                                    manager, getStructure(), weight.getInitializer(), dataType)
                            : initialMatrix.toValuesArray(manager, dataType);
            DenseLinears.setArray(weight, values);
        }
        if (bias != null && !bias.isInitialized() && initialBias != null) {
            DenseLinears.setArray(bias, DenseLinears.create(manager, initialBias, dataType));
        }
        super.initialize(manager, dataType, inputShapes);
    }

    /** {@inheritDoc} */
    @Override
    public void prepare(Shape[] inputShapes) {
        BsrStructure structure = specs.current().checkInput(inputShapes[0]);
        if (!weight.isInitialized()) {
            weight.setShape(ReferenceBsrOperator.valuesShape(structure));
        }
        if (bias != null && !bias.isInitialized()) {
            bias.setShape(new Shape(structure.getRows()));
        }
    }

    /** {@inheritDoc} */
    @Override
    protected void beforeInitialize(Shape... inputShapes) {
        super.beforeInitialize(inputShapes);
        leadingShape = inputShapes[0].slice(0, inputShapes[0].dimension() - 1);
    }

    /** {@inheritDoc} */
    @Override
    public Shape[] getOutputShapes(Shape[] inputs) {
        Shape input = inputs[0];
        BsrLinearSpec spec = specs.current();
        if (spec.hasStructure()) {
            spec.checkInput(input);
        }
        return new Shape[] {input.slice(0, input.dimension() - 1).add(spec.rows())};
    }

    /**
     * {@inheritDoc}
     *
     * <p>As for {@link Linear}, the shape is the one of the leading dimensions, and null before the
     * layer is initialized.
     */
    @Override
    public PairList<String, Shape> describeInput() {
        PairList<String, Shape> description = new PairList<>(1);
        description.add("linearInput", leadingShape);
        return description;
    }

    /** {@inheritDoc} */
    @Override
    public void clear() {
        super.clear();
        inferenceWeights.evict();
        trainingWeights.evict();
    }

    /** {@inheritDoc} */
    @Override
    public void saveParameters(DataOutputStream os) throws IOException {
        specs.read(
                () -> {
                    DenseLinears.weightOf(this);
                    os.write(version);
                    saveMetadata(os);
                    BsrLinearFormat.writeParameters(os, weight, bias);
                    return null;
                });
    }

    /** {@inheritDoc} */
    @Override
    protected void saveMetadata(DataOutputStream os) throws IOException {
        BsrLinearFormat.writeMetadata(os, specs.current(), bias != null, leadingShape);
    }

    /**
     * {@inheritDoc}
     *
     * <p>As for every DJL block, a {@code Predictor} or {@code Trainer} that ran before keeps the
     * values it had, with their structure and activation, and the arrays of these stay open until
     * their manager closes. Calls in other threads see the old or the new layer.
     *
     * @throws MalformedModelException if the file is cut off or damaged, does not fit this layer,
     *     or is the one of a {@link Linear} with non-zero elements outside the blocks of the
     *     structure; this layer is then as before
     */
    @Override
    public void loadParameters(NDManager manager, DataInputStream is)
            throws IOException, MalformedModelException {
        BsrLinearFormat.Content content =
                BsrLinearFormat.read(manager, is, specs.current(), bias != null);
        specs.replace(
                content.metadata().spec(),
                () -> {
                    BsrLinearFormat.replaceArray(weight, manager, content.values());
                    if (bias != null) {
                        BsrLinearFormat.replaceArray(bias, manager, content.bias());
                    }
                });
        setInputShape(content.metadata().leadingShape());
        inferenceWeights.evict();
        trainingWeights.evict();
        initialMatrix = null;
        initialBias = null;
    }

    /** {@inheritDoc} */
    @Override
    public void loadMetadata(byte loadVersion, DataInputStream is)
            throws IOException, MalformedModelException {
        BsrLinearFormat.Metadata metadata =
                BsrLinearFormat.readMetadata(loadVersion, is, specs.current(), bias != null);
        specs.replace(metadata.spec(), () -> {});
        setInputShape(metadata.leadingShape());
    }

    final void setInputShape(Shape leading) {
        leadingShape = leading;
        BsrLinearSpec spec = specs.current();
        long cols = spec.hasStructure() ? spec.structure().getCols() : -1;
        inputShapes = leading == null ? null : new Shape[] {leading.add(cols)};
    }

    /** Builds a {@link BsrLinear} from a matrix, a structure, or units and block shape. */
    public static class Builder extends Linear.Builder {

        private BsrMatrix matrix;
        private BsrStructure structure;
        private int blockRows;
        private int blockCols;
        private double[] initialBias;
        private BsrActivation activation = BsrActivation.NONE;
        private BsrWeightFormat weightFormat = BsrWeightFormat.AS_GIVEN;
        private BsrExecution execution = BsrExecution.AUTO;
        private BsrLinearSpec spec;

        /** Constructs a builder. */
        protected Builder() {}

        /**
         * Sets the weight. Its structure is the layer's, and {@link BsrLinear#initialize} takes its
         * values instead of asking the initializer.
         *
         * @param matrix the weight, [units, input features]
         * @return this builder
         */
        public Builder setMatrix(BsrMatrix matrix) {
            this.matrix = Objects.requireNonNull(matrix, "matrix is null; use setStructure");
            return setStructure(matrix.getStructure());
        }

        /**
         * Sets the block structure. The weight's initializer gives the values; it sees the dense
         * shape [units, input features].
         *
         * @param structure the block structure
         * @return this builder
         */
        public Builder setStructure(BsrStructure structure) {
            this.structure =
                    Objects.requireNonNull(structure, "structure is null; use setBlockShape");
            return setUnits(structure.getRows());
        }

        /**
         * Sets the block shape of a layer whose structure is not known yet. Such a layer also needs
         * {@link #setUnits}, and takes its structure from the file that it loads.
         *
         * @param blockRows the rows of a block
         * @param blockCols the columns of a block
         * @return this builder
         */
        public Builder setBlockShape(int blockRows, int blockCols) {
            this.blockRows = blockRows;
            this.blockCols = blockCols;
            return this;
        }

        /**
         * Sets the number of rows; only needed with {@link #setBlockShape}.
         *
         * @param units the number of output features
         * @return this builder
         */
        @Override
        public Builder setUnits(long units) {
            super.setUnits(units);
            return this;
        }

        /**
         * Sets whether the layer has a bias, which the bias's initializer gives. It has by default.
         *
         * @param bias whether the layer has a bias
         * @return this builder
         */
        @Override
        public Builder optBias(boolean bias) {
            super.optBias(bias);
            initialBias = bias ? initialBias : null;
            return this;
        }

        /**
         * Sets the initial bias.
         *
         * @param bias one value per row
         * @return this builder
         */
        public Builder optBias(float[] bias) {
            optBias(true);
            initialBias = new double[bias.length];
            Arrays.setAll(initialBias, i -> bias[i]);
            return this;
        }

        /**
         * Sets the initial bias to a copy of an array.
         *
         * @param bias the bias, shape [units], FLOAT16, FLOAT32 or FLOAT64
         * @return this builder
         */
        public Builder optBias(NDArray bias) {
            ReferenceBsrOperator.checkDataType("bias", bias.getDataType());
            optBias(true);
            try (NDArray wide = bias.toType(DataType.FLOAT64, true)) {
                initialBias = wide.toDoubleArray();
            }
            return this;
        }

        /**
         * Sets the activation, which is applied with the product; none by default.
         *
         * @param activation the activation
         * @return this builder
         */
        public Builder optActivation(BsrActivation activation) {
            this.activation = activation;
            return this;
        }

        /**
         * Sets how inference keeps the weight; as given by default.
         *
         * <p>The parameter, training and the saved file are not touched by it, and a layer keeps
         * its own format when it loads parameters. {@link BsrExecution#AUTO} never runs another
         * format dense. Inference throws an {@link UnsupportedOperationException} where no operator
         * has the format for the input's device and data type.
         *
         * @param format the format
         * @return this builder
         */
        public Builder optWeightFormat(BsrWeightFormat format) {
            this.weightFormat =
                    Objects.requireNonNull(format, "format is null; use BsrWeightFormat.AS_GIVEN");
            return this;
        }

        /**
         * Sets how inference calls are computed; {@link BsrExecution#AUTO} by default.
         *
         * @param execution how
         * @return this builder
         */
        public Builder optExecution(BsrExecution execution) {
            this.execution =
                    Objects.requireNonNull(execution, "execution is null; use BsrExecution.AUTO");
            return this;
        }

        /**
         * Builds the layer.
         *
         * @return the layer
         * @throws IllegalArgumentException if neither matrix, structure nor units and block shape
         *     are set, or they contradict each other, or the bias has another length than rows
         */
        @Override
        public BsrLinear build() {
            if (matrix != null && !matrix.getStructure().equals(structure)) {
                throw new IllegalArgumentException(
                        "matrix and structure are both set; call setMatrix or setStructure");
            }
            spec =
                    structure == null
                            ? BsrLinearSpec.ofBlockShape(units, blockRows, blockCols, activation)
                            : BsrLinearSpec.of(structure, units, activation);
            if (initialBias != null && initialBias.length != units) {
                throw new IllegalArgumentException(
                        "bias has "
                                + initialBias.length
                                + " values; the weight has "
                                + units
                                + " rows");
            }
            return new BsrLinear(this);
        }
    }
}
