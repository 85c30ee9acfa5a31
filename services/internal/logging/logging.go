// Package logging builds the logger of a service and keeps the list of field names, so that one fact has one name in
// the logs of all services.
package logging

import (
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// New makes a logger that writes one JSON object a line to out. level is debug, info, warn or error; empty is info.
// Every line carries the service and the node.
func New(service, node, level string, out io.Writer) (*zap.Logger, error) {
	threshold := zapcore.InfoLevel
	if level != "" {
		parsed, err := zapcore.ParseLevel(level)
		if err != nil || parsed < zapcore.DebugLevel || parsed > zapcore.ErrorLevel {
			return nil, fmt.Errorf("log level: want debug, info, warn or error, got %q", level)
		}
		threshold = parsed
	}
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey:        "time",
		LevelKey:       "level",
		NameKey:        "room",
		MessageKey:     "message",
		StacktraceKey:  "stack",
		EncodeTime:     zapcore.RFC3339NanoTimeEncoder,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.StringDurationEncoder,
		EncodeName:     zapcore.FullNameEncoder,
	})
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(out)), threshold)
	return zap.New(core, zap.Fields(zap.String("service", service), zap.String("node", node))), nil
}

// Backend names a group of servers.
func Backend(name string) zap.Field { return zap.String("backend", name) }

// Backends names several groups of servers.
func Backends(names []string) zap.Field { return zap.Strings("backends", names) }

// Server names one machine behind a backend.
func Server(name string) zap.Field { return zap.String("server", name) }

// VIP is a floating address.
func VIP(address string) zap.Field { return zap.String("vip", address) }

// Instance names a VRRP instance.
func Instance(name string) zap.Field { return zap.String("instance", name) }

// Pair names a source and a target of the file synchronisation.
func Pair(name string) zap.Field { return zap.String("pair", name) }

// violationsMost is how many violations are told in one line of the log; the status has all.
const violationsMost = 8

// Violations are what is wrong with a desired state: FIELD: DESCRIPTION each, the first violationsMost of them.
func Violations(all []*commonv1.Violation) zap.Field {
	if len(all) == 0 {
		return zap.Skip()
	}
	var told []string
	for _, v := range all[:min(len(all), violationsMost)] {
		told = append(told, v.GetField()+": "+v.GetDescription())
	}
	if rest := len(all) - violationsMost; rest > 0 {
		told = append(told, fmt.Sprintf("and %d more", rest))
	}
	return zap.Strings("violations", told)
}

// Kind is the kind of a desired object.
func Kind(kind string) zap.Field { return zap.String("kind", kind) }

// Name is the name of a desired object.
func Name(name string) zap.Field { return zap.String("name", name) }

// Revision is the revision of a desired state.
func Revision(revision int64) zap.Field { return zap.Int64("revision", revision) }

// Change is one line of a plan.
func Change(line string) zap.Field { return zap.String("change", line) }

// Changes are the lines of a plan.
func Changes(lines []string) zap.Field { return zap.Strings("changes", lines) }

// Attempt counts tries, from 1.
func Attempt(n int) zap.Field { return zap.Int("attempt", n) }

// Duration tells how long something took.
func Duration(d time.Duration) zap.Field { return zap.Duration("duration", d) }

// Path is a file or folder.
func Path(path string) zap.Field { return zap.String("path", path) }

// Address is a network address, with its port where it has one.
func Address(address string) zap.Field { return zap.String("address", address) }

// Route is an entry of a routing table.
func Route(text string) zap.Field { return zap.String("route", text) }

// Device is a network card.
func Device(name string) zap.Field { return zap.String("device", name) }

// Method is the full name of an RPC.
func Method(name string) zap.Field { return zap.String("method", name) }

// Subject is who asked, as in the client's certificate.
func Subject(name string) zap.Field { return zap.String("subject", name) }

// Old is the state before a change of state.
func Old(state string) zap.Field { return zap.String("old", state) }

// To is the state after a change of state.
func To(state string) zap.Field { return zap.String("new", state) }

// Reason is why a state changed.
func Reason(why string) zap.Field { return zap.String("reason", why) }

// Count is how many there were.
func Count(n int) zap.Field { return zap.Int("count", n) }

// Stack is where a panic was raised.
func Stack(stack []byte) zap.Field { return zap.ByteString("stack", stack) }
