/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import ai.djl.Device;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.ServiceConfigurationError;
import java.util.ServiceLoader;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The operators that were found, in the order of their rank. Thread-safe. */
final class OperatorRegistry {

    private static final Logger logger = LoggerFactory.getLogger(BsrOperators.class);

    /** Ends a search whose provider files break again and again. */
    private static final int MAX_BROKEN = 100;

    private final List<BsrOperator> operators;
    private final List<OperatorStatus> broken;
    private final BsrOperator reference;
    private final Set<Target> warned = ConcurrentHashMap.newKeySet();

    OperatorRegistry(List<BsrOperator> found, List<OperatorStatus> broken) {
        reference = new ReferenceBsrOperator();
        List<BsrOperator> all = new ArrayList<>(found);
        all.sort(Comparator.comparingInt(BsrOperator::getRank));
        all.add(reference);
        operators = List.copyOf(all);
        this.broken = List.copyOf(broken);
    }

    /** Searches class loaders, of which any may be null. */
    static OperatorRegistry discover(ClassLoader... loaders) {
        Map<Class<?>, BsrOperator> found = new LinkedHashMap<>();
        Map<String, OperatorStatus> broken = new LinkedHashMap<>();
        for (ClassLoader loader : loaders) {
            if (loader != null) {
                discover(loader, found, broken);
            }
        }
        return new OperatorRegistry(
                new ArrayList<>(found.values()), new ArrayList<>(broken.values()));
    }

    private static void discover(
            ClassLoader loader,
            Map<Class<?>, BsrOperator> found,
            Map<String, OperatorStatus> broken) {
        Iterator<ServiceLoader.Provider<BsrOperator>> it =
                ServiceLoader.load(BsrOperator.class, loader).stream().iterator();
        for (int failures = 0; failures < MAX_BROKEN; ) {
            String name = "a provider of " + BsrOperator.class.getName();
            try {
                if (!it.hasNext()) {
                    return;
                }
                ServiceLoader.Provider<BsrOperator> provider = it.next();
                name = provider.type().getName();
                if (!found.containsKey(provider.type())) {
                    found.put(provider.type(), provider.get());
                }
            } catch (ServiceConfigurationError | LinkageError e) {
                failures++;
                String reason = "cannot be loaded: " + describe(e);
                if (broken.put(name + reason, new OperatorStatus(name, Optional.of(reason)))
                        == null) {
                    logger.debug("{} {}", name, reason, e);
                }
            }
        }
    }

    private static String describe(Throwable e) {
        String message = e.toString();
        for (Throwable cause = e.getCause(); cause != null; cause = cause.getCause()) {
            message += "; caused by " + cause;
        }
        return message;
    }

    BsrOperator reference() {
        return reference;
    }

    BsrOperator select(NDManager manager, Device device, DataType dataType) {
        String forced = System.getProperty(BsrOperators.PROPERTY, "");
        if (!forced.isEmpty()) {
            return forced(forced, manager, device, dataType);
        }
        List<String> reasons = new ArrayList<>();
        for (BsrOperator operator : operators) {
            Optional<String> reason = rejection(operator, manager, device, dataType);
            if (reason.isEmpty()) {
                if (operator == reference) {
                    warn(new Target(engineName(manager), device, dataType), reasons);
                }
                return operator;
            }
            reasons.add(operator.getName() + ": " + reason.get());
        }
        throw new UnsupportedOperationException(
                "no block-sparse operator serves "
                        + new Target(engineName(manager), device, dataType)
                        + ": "
                        + String.join("; ", reasons));
    }

    private BsrOperator forced(String name, NDManager manager, Device device, DataType dataType) {
        for (BsrOperator operator : operators) {
            if (operator.getName().equals(name)) {
                Optional<String> reason = rejection(operator, manager, device, dataType);
                if (reason.isPresent()) {
                    throw new UnsupportedOperationException(
                            "the operator that the system property "
                                    + BsrOperators.PROPERTY
                                    + " forces, "
                                    + name
                                    + ", does not serve "
                                    + new Target(engineName(manager), device, dataType)
                                    + ": "
                                    + reason.get());
                }
                return operator;
            }
        }
        String known =
                operators.stream().map(BsrOperator::getName).collect(Collectors.joining(", "));
        String lost =
                broken.isEmpty()
                        ? ""
                        : "; not loaded: "
                                + broken.stream()
                                        .map(OperatorStatus::toString)
                                        .collect(Collectors.joining("; "));
        throw new IllegalArgumentException(
                "the system property "
                        + BsrOperators.PROPERTY
                        + " is "
                        + name
                        + "; use one of: "
                        + known
                        + lost);
    }

    List<OperatorStatus> report(NDManager manager, Device device, DataType dataType) {
        List<OperatorStatus> report = new ArrayList<>();
        for (BsrOperator operator : operators) {
            report.add(
                    new OperatorStatus(
                            operator.getName(), rejection(operator, manager, device, dataType)));
        }
        report.addAll(broken);
        return report;
    }

    /** An operator whose check fails does not serve: the failure is its reason. */
    private static Optional<String> rejection(
            BsrOperator operator, NDManager manager, Device device, DataType dataType) {
        try {
            return operator.rejectionReason(manager, device, dataType);
        } catch (RuntimeException | LinkageError e) {
            logger.debug("The check of operator {} failed", operator.getName(), e);
            return Optional.of("its check failed: " + describe(e));
        }
    }

    private void warn(Target target, List<String> reasons) {
        if (!warned.add(target)) {
            return;
        }
        List<String> all = new ArrayList<>(reasons);
        broken.forEach(status -> all.add(status.toString()));
        logger.warn(
                "Block-sparse layers on {} use the slower NDArray reference operator, because {}.",
                target,
                all.isEmpty()
                        ? "no other operator is on the class path; add the artifact"
                                + " io.djlbsr:djl-bsr-engine"
                        : String.join("; ", all));
    }

    private static String engineName(NDManager manager) {
        return manager.getEngine().getEngineName();
    }

    /** What an operator is selected for. */
    private record Target(String engine, Device device, DataType dataType) {

        @Override
        public String toString() {
            return engine + " " + dataType + " arrays on " + device;
        }
    }
}
