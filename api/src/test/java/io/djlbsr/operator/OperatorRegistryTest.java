/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import io.djlbsr.BsrStructure;
import java.io.IOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.slf4j.LoggerFactory;

class OperatorRegistryTest {

    private final NDManager manager = NDManager.newBaseManager();
    private final ListAppender<ILoggingEvent> log = new ListAppender<>();
    private final Logger logger = (Logger) LoggerFactory.getLogger(BsrOperators.class);

    @BeforeEach
    void listen() {
        log.start();
        logger.addAppender(log);
    }

    @AfterEach
    void close() {
        logger.detachAppender(log);
        System.clearProperty(BsrOperators.PROPERTY);
        manager.close();
    }

    private List<String> warnings() {
        return log.list.stream()
                .filter(event -> event.getLevel() == Level.WARN)
                .map(ILoggingEvent::getFormattedMessage)
                .toList();
    }

    /** An operator that serves one data type. */
    public static class Fake implements BsrOperator {
        private final String name;
        private final int rank;
        private final DataType served;

        public Fake() {
            this("fake", 5, DataType.FLOAT32);
        }

        Fake(String name, int rank, DataType served) {
            this.name = name;
            this.rank = rank;
            this.served = served;
        }

        @Override
        public String getName() {
            return name;
        }

        @Override
        public int getRank() {
            return rank;
        }

        @Override
        public Optional<String> rejectionReason(NDManager m, Device device, DataType dataType) {
            return dataType == served ? Optional.empty() : Optional.of("only " + served + " here");
        }

        @Override
        public PackedBsrWeight pack(NDManager m, BsrStructure structure, NDArray values) {
            throw new AssertionError("not called");
        }
    }

    /** Cannot be constructed. */
    public static final class Broken extends Fake {
        public Broken() {
            throw new UnsatisfiedLinkError("libfake.so is not there");
        }
    }

    private BsrOperator select(OperatorRegistry registry, DataType type) {
        return registry.select(manager, Device.cpu(), type);
    }

    @Test
    void takesTheLowestRankThatServes() {
        OperatorRegistry registry =
                new OperatorRegistry(
                        List.of(
                                new Fake("slow", 9, DataType.FLOAT32),
                                new Fake("fast", 1, DataType.FLOAT32),
                                new Fake("half", 0, DataType.FLOAT16)),
                        List.of());
        assertEquals("fast", select(registry, DataType.FLOAT32).getName());
        assertEquals("half", select(registry, DataType.FLOAT16).getName());
        assertEquals(0, warnings().size(), "no fallback, no warning");
        assertSame(registry.reference(), select(registry, DataType.FLOAT64));
    }

    @Test
    void warnsOncePerTargetWithTheReasons() {
        OperatorRegistry registry = new OperatorRegistry(List.of(new Fake()), List.of());
        select(registry, DataType.FLOAT64);
        select(registry, DataType.FLOAT64);
        assertEquals(1, warnings().size());
        String message = warnings().get(0);
        assertTrue(message.contains("fake: only float32 here"), message);
        assertTrue(message.contains("PyTorch float64 arrays on cpu"), message);
        select(registry, DataType.FLOAT16);
        assertEquals(2, warnings().size());
    }

    @Test
    void failsIfNothingServes() {
        OperatorRegistry registry = new OperatorRegistry(List.of(new Fake()), List.of());
        String message =
                assertThrows(
                                UnsupportedOperationException.class,
                                () -> select(registry, DataType.BFLOAT16))
                        .getMessage();
        assertTrue(message.contains("use FLOAT16, FLOAT32 or FLOAT64"), message);
    }

    @Test
    void propertyForcesAnOperator() {
        OperatorRegistry registry = new OperatorRegistry(List.of(new Fake()), List.of());
        System.setProperty(BsrOperators.PROPERTY, "reference");
        assertSame(registry.reference(), select(registry, DataType.FLOAT32));
        assertEquals(0, warnings().size(), "a choice is no fallback");
        System.setProperty(BsrOperators.PROPERTY, "fake");
        assertThrows(UnsupportedOperationException.class, () -> select(registry, DataType.FLOAT64));
        System.setProperty(BsrOperators.PROPERTY, "nosuch");
        String message =
                assertThrows(
                                IllegalArgumentException.class,
                                () -> select(registry, DataType.FLOAT32))
                        .getMessage();
        assertTrue(message.contains("use one of: fake, reference"), message);
    }

    @Test
    void findsProvidersInBothLoadersAndSkipsBrokenOnes(@TempDir Path dir) throws IOException {
        Path services = Files.createDirectories(dir.resolve("META-INF/services"));
        Files.writeString(
                services.resolve(BsrOperator.class.getName()),
                String.join(
                        "\n",
                        Broken.class.getName(),
                        "io.djlbsr.NoSuchOperator",
                        Fake.class.getName()));
        ClassLoader own = BsrOperators.class.getClassLoader();
        try (URLClassLoader context = new URLClassLoader(new URL[] {dir.toUri().toURL()}, own)) {
            OperatorRegistry registry = OperatorRegistry.discover(own, null, context, context);
            assertEquals("fake", select(registry, DataType.FLOAT32).getName());
            List<OperatorStatus> report = registry.report(manager, Device.cpu(), DataType.FLOAT64);
            assertEquals(
                    List.of("fake", "reference"),
                    report.stream().limit(2).map(OperatorStatus::name).toList());
            assertFalse(report.get(0).serves());
            assertTrue(report.get(1).serves());
            assertEquals(4, report.size(), report::toString);
            String all = report.toString();
            assertTrue(all.contains("libfake.so is not there"), all);
            assertTrue(all.contains("NoSuchOperator"), all);
        }
    }

    @Test
    void aFailingCheckIsARejection() {
        BsrOperator failing =
                new Fake() {
                    @Override
                    public Optional<String> rejectionReason(NDManager m, Device d, DataType t) {
                        throw new UnsatisfiedLinkError("undefined symbol");
                    }
                };
        OperatorRegistry registry = new OperatorRegistry(List.of(failing), List.of());
        assertSame(registry.reference(), select(registry, DataType.FLOAT32));
        String message = warnings().get(0);
        assertTrue(message.contains("undefined symbol"), message);
    }
}
