import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** The hop that soma-bench measures, as Kafka Streams users write it: decode, pass each key on once, encode; exactly_once_v2. */
public final class HopStreams {
    private static final String STORE = "seen";
    private static final byte[] SEEN = "{\"v\":1,\"s\":true}".getBytes();

    private HopStreams() {}

    /** Confluent framing around Avro binary of one schema. */
    private static Serde<GenericRecord> avro(Schema schema, int id) {
        GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(schema);
        GenericDatumWriter<GenericRecord> writer = new GenericDatumWriter<>(schema);
        BinaryDecoder[] decoder = new BinaryDecoder[1];
        BinaryEncoder[] encoder = new BinaryEncoder[1];
        byte[] frame = ByteBuffer.allocate(5).put((byte) 0).putInt(id).array();
        Deserializer<GenericRecord> read = (topic, bytes) -> {
            if (bytes == null || bytes.length < 5 || bytes[0] != 0) {
                throw new IllegalArgumentException("not framed");
            }
            decoder[0] = DecoderFactory.get().binaryDecoder(bytes, 5, bytes.length - 5, decoder[0]);
            try {
                return reader.read(null, decoder[0]);
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        };
        Serializer<GenericRecord> write = (topic, record) -> {
            ByteArrayOutputStream out = new ByteArrayOutputStream(256);
            try {
                out.write(frame);
                encoder[0] = EncoderFactory.get().binaryEncoder(out, encoder[0]);
                writer.write(record, encoder[0]);
                encoder[0].flush();
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
            return out.toByteArray();
        };
        return Serdes.serdeFrom(write, read);
    }

    private static final class Dedupe implements Processor<String, GenericRecord, String, GenericRecord> {
        private ProcessorContext<String, GenericRecord> context;
        private KeyValueStore<String, byte[]> seen;

        @Override
        public void init(ProcessorContext<String, GenericRecord> context) {
            this.context = context;
            this.seen = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, GenericRecord> record) {
            if (seen.get(record.key()) == null) {
                seen.put(record.key(), SEEN);
                context.forward(record);
            }
        }
    }

    /** Arguments: state folder, schema file, brokers, input, output, application id, schema id. */
    public static void main(String[] args) throws IOException {
        Schema schema = new Schema.Parser().parse(new File(args[1]));
        Serde<GenericRecord> value = avro(schema, Integer.parseInt(args[6]));
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray()));
        builder.stream(args[3], Consumed.with(Serdes.String(), value))
                .process(Dedupe::new, STORE)
                .to(args[4], Produced.with(Serdes.String(), value));
        Properties config = new Properties();
        config.put(StreamsConfig.STATE_DIR_CONFIG, args[0]);
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[2]);
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, args[5]);
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        config.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        config.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        config.put(StreamsConfig.producerPrefix("compression.type"), "lz4");
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
