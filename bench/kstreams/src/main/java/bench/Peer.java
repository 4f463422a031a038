package bench;

import bench.avro.UsageEvent;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.specific.SpecificDatumReader;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;
import org.apache.kafka.streams.state.WindowStoreIterator;

/**
 * What meterd is compared with: counting usage and telling limits as a Kafka Streams application, with exactly_once_v2, RocksDB and
 * a changelog. Its work is in the environment (BENCH_*), and bench/README.md says which settings are not the defaults, and why.
 * Options: -Ddedup=true keeps every event id for an hour of event time, -Dcache=false is without a record cache, and
 * -Dstreams.NAME=VALUE is any setting of Kafka Streams.
 */
public final class Peer {
  static final String TOTALS = "totals";
  static final String CONTRACTS = "contracts";
  static final String SEEN = "seen";
  static final int[] THRESHOLDS = {50, 80, 100};
  /** Clients without a contract, which are remembered too. */
  static final Contract NONE = new Contract(null);
  /** Read-through copy of the global store: that one is a TreeMap of bytes, and its get was 14 % of the CPU. */
  static final ConcurrentHashMap<String, Contract> HOT = new ConcurrentHashMap<>();
  static final ObjectMapper JSON = new ObjectMapper();
  static final int SCHEMA_ID = Integer.parseInt(env("SCHEMA_ID"));
  static final Duration DEDUP_WINDOW = Duration.ofHours(1);

  private Peer() {}

  static String env(String name) {
    String value = System.getenv("BENCH_" + name);
    if (value == null) {
      throw new IllegalArgumentException("BENCH_" + name + " is not set");
    }
    return value;
  }

  public static void main(String[] args) throws Exception {
    boolean cache = Boolean.parseBoolean(System.getProperty("cache", "true"));
    boolean dedup = Boolean.getBoolean("dedup");

    Topology t = new Topology();
    t.addGlobalStore(
        Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(CONTRACTS), Serdes.String(), new ContractSerde()).withLoggingDisabled(),
        "contracts-source", Serdes.String().deserializer(), new ContractSerde().deserializer(), env("CONTRACTS"), "contracts-update", ContractUpdate::new);
    t.addSource("usage", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), env("USAGE"));
    t.addProcessor("count", () -> new Counter(dedup), "usage");
    StoreBuilder<KeyValueStore<String, Total>> totals =
        Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(TOTALS), Serdes.String(), new TotalSerde());
    t.addStateStore(cache ? totals.withCachingEnabled() : totals.withCachingDisabled(), "count");
    if (dedup) {
      StoreBuilder<WindowStore<String, Long>> seen =
          Stores.windowStoreBuilder(Stores.persistentWindowStore(SEEN, DEDUP_WINDOW, DEDUP_WINDOW, false), Serdes.String(), Serdes.Long());
      t.addStateStore(seen, "count");
    }
    t.addSink("limits", env("LIMIT_EVENTS"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "count");
    t.addSink("dead-letters", env("DEAD_LETTERS"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "count");

    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, env("GROUP"));
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env("BOOTSTRAP"));
    p.put(StreamsConfig.STATE_DIR_CONFIG, env("STATE_DIR"));
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100); // the default with exactly_once_v2
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, cache ? 192L << 20 : 0L); // default 10 MiB
    p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 5000); // default 1000
    p.put(StreamsConfig.consumerPrefix("max.poll.records"), 5000); // default 1000
    p.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
    p.put(StreamsConfig.producerPrefix("compression.type"), "lz4");
    p.put(StreamsConfig.producerPrefix("batch.size"), 64 << 10); // default 16 KiB; linger stays at Streams' 100 ms
    // any other setting: -Dstreams.NAME=VALUE
    System.getProperties().forEach((k, v) -> {
      if (((String) k).startsWith("streams.")) {
        p.put(((String) k).substring(8), v);
      }
    });

    KafkaStreams streams = new KafkaStreams(t, p);
    CountDownLatch closed = new CountDownLatch(1);
    streams.setStateListener((now, old) -> {
      if (now == KafkaStreams.State.NOT_RUNNING || now == KafkaStreams.State.ERROR) {
        closed.countDown();
      }
    });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(30))));
    streams.start();
    closed.await();
  }

  /** sum, count and the thresholds passed: 17 bytes. */
  record Total(long sum, long count, byte mask) {}

  static final class TotalSerde extends Serdes.WrapperSerde<Total> {
    TotalSerde() {
      super((topic, v) -> v == null ? null : ByteBuffer.allocate(17).putLong(v.sum).putLong(v.count).put(v.mask).array(),
          (topic, b) -> {
            if (b == null) {
              return null;
            }
            ByteBuffer x = ByteBuffer.wrap(b);
            return new Total(x.getLong(), x.getLong(), x.get());
          });
    }
  }

  /** A contract keeps its JSON; the limits are read from it once. */
  static final class Contract {
    final byte[] json;
    private volatile Map<String, Long> limits;

    Contract(byte[] json) {
      this.json = json;
    }

    long limit(String meter) {
      Map<String, Long> m = limits;
      if (m == null) {
        limits = m = parse();
      }
      return m.getOrDefault(meter, 0L);
    }

    private Map<String, Long> parse() {
      try {
        Map<String, Long> m = new HashMap<>();
        for (JsonNode limit : JSON.readTree(json).get("limits")) {
          m.put(limit.get("meter").asText(), Long.parseLong(limit.get("limit").asText()));
        }
        return m;
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  static final class ContractSerde extends Serdes.WrapperSerde<Contract> {
    ContractSerde() {
      super((topic, v) -> v == null ? null : v.json, (topic, b) -> b == null ? null : new Contract(b));
    }
  }

  static final class ContractUpdate implements Processor<String, Contract, Void, Void> {
    private KeyValueStore<String, Contract> store;

    @Override public void init(ProcessorContext<Void, Void> c) {
      store = c.getStateStore(CONTRACTS);
    }

    @Override public void process(Record<String, Contract> r) {
      store.put(r.key(), r.value());
      HOT.remove(r.key());
    }
  }

  static final class Counter extends ContextualProcessor<String, byte[], String, byte[]> {
    private final boolean dedup;
    private final SpecificDatumReader<UsageEvent> reader = new SpecificDatumReader<>(UsageEvent.getClassSchema());
    private BinaryDecoder decoder;
    private KeyValueStore<String, Total> totals;
    private KeyValueStore<String, Contract> contracts;
    private WindowStore<String, Long> seen;

    Counter(boolean dedup) {
      this.dedup = dedup;
    }

    @Override public void init(ProcessorContext<String, byte[]> c) {
      super.init(c);
      totals = c.getStateStore(TOTALS);
      contracts = c.getStateStore(CONTRACTS);
      seen = dedup ? c.getStateStore(SEEN) : null;
    }

    private UsageEvent decode(byte[] b) {
      if (b == null || b.length < 5 || b[0] != 0 || ByteBuffer.wrap(b, 1, 4).getInt() != SCHEMA_ID) {
        return null;
      }
      try {
        decoder = DecoderFactory.get().binaryDecoder(b, 5, b.length - 5, decoder);
        return reader.read(null, decoder);
      } catch (IOException | RuntimeException e) {
        return null;
      }
    }

    @Override public void process(Record<String, byte[]> r) {
      UsageEvent ev = decode(r.value());
      if (ev == null) {
        context().forward(r, "dead-letters");
        return;
      }
      if (dedup) {
        String id = ev.getEventId();
        long ts = ev.getTimestamp().toEpochMilli();
        try (WindowStoreIterator<Long> it = seen.fetch(id, ts - DEDUP_WINDOW.toMillis(), ts + DEDUP_WINDOW.toMillis())) {
          if (it.hasNext()) {
            return;
          }
        }
        seen.put(id, ts, ts);
      }
      String client = ev.getClientId();
      String meter = ev.getMeter();
      String key = client + '|' + meter;
      Total was = totals.get(key);
      long sum = (was == null ? 0 : was.sum) + ev.getQuantity();
      byte mask = was == null ? 0 : was.mask;
      Contract c = HOT.get(client);
      if (c == null) {
        c = HOT.computeIfAbsent(client, k -> {
          Contract found = contracts.get(k);
          return found == null ? NONE : found;
        });
      }
      long limit = c == NONE ? 0 : c.limit(meter);
      if (limit > 0) {
        for (int i = 0; i < THRESHOLDS.length; i++) {
          if ((mask & 1 << i) == 0 && sum * 100 >= limit * THRESHOLDS[i]) {
            mask |= (byte) (1 << i);
            String json = "{\"client_id\":\"" + client + "\",\"meter\":\"" + meter + "\",\"threshold\":" + THRESHOLDS[i] + ",\"limit\":" + limit
                + ",\"value\":" + sum + ",\"event_id\":\"" + ev.getEventId() + "\",\"event_ts\":" + ev.getTimestamp().toEpochMilli() + "}";
            context().forward(r.withKey(client).withValue(json.getBytes(StandardCharsets.UTF_8)), "limits");
          }
        }
      }
      totals.put(key, new Total(sum, was == null ? 1 : was.count + 1, mask));
    }
  }
}
