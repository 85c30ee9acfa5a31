package daemon

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/certs"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/relay"
	"github.com/twotier/twotier/services/internal/status"
)

// Config is what the flags that all services share say.
type Config struct {
	// Service is the name of the program.
	Service string
	// Node is --node: the name of this machine in status and desired state. Default: the host name.
	Node string
	// Etcd is --etcd: endpoints, separated by commas. Either this or Desired.
	Etcd []string
	// Desired is --desired: a YAML file, or a folder of *.yaml.
	Desired string
	// StateDir is --state-dir: where the last good desired state is kept. Default /var/lib/twotier/SERVICE; where that
	// cannot be made (a read-only container), nowhere, which the log says.
	StateDir string
	// GRPCListen is --grpc-listen: HOST:PORT or unix:PATH of the control API. Default 127.0.0.1 and the service's port.
	GRPCListen string
	// TLSCert, TLSKey and TLSCA are --tls-cert, --tls-key and --tls-ca: PEM files, used towards etcd, for the control API and
	// for metrics; read again when they change. All three or none.
	TLSCert, TLSKey, TLSCA string
	// MetricsListen is --metrics-listen: HOST:PORT or unix:PATH of GET /metrics. Default: off.
	MetricsListen string
	// LogLevel is --log-level: debug, info, warn or error. Default info.
	LogLevel string

	files        *certs.Files // nil without TLS
	stateDirFree bool         // nobody has named a StateDir; it is the default
}

// ports are the default ports of the control APIs, so that several services can share a machine without a flag.
var ports = map[string]string{
	"ipvs-director": "7401",
	"l7-router":     "7402",
	"vrrp-agent":    "7403",
	"file-sync":     "7404",
	"forum-backend": "7405",
}

// Node is the name of this machine that Main goes by, for a process that comes before it. What is wrong with the flags is
// for Main to say.
func Node(service string) string {
	return nodeOf(service, surroundings{args: os.Args[1:], env: os.LookupEnv, out: io.Discard, errors: io.Discard})
}

func nodeOf(service string, around surroundings) string {
	if config, _, err := parse(service, around.args, around, nil); err == nil {
		return config.Node
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return host
}

// parse reads flags and environment.
func parse(service string, args []string, around surroundings, extra func(*flag.FlagSet)) (config Config, showVersion bool, err error) {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	port := ports[service]
	if port == "" {
		port = "7400"
	}
	c := Config{Service: service}
	var endpoints string
	fs := flag.NewFlagSet(service, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.Node, "node", host, "`NAME` of this machine in status and desired state")
	fs.StringVar(&endpoints, "etcd", "", "etcd `ENDPOINTS`, separated by commas; either this or --desired")
	fs.StringVar(&c.Desired, "desired", "", "desired state from this YAML `FILE`, or from the *.yaml of this folder")
	fs.StringVar(&c.StateDir, "state-dir", "/var/lib/twotier/"+service, "`FOLDER` for the last good desired state")
	fs.StringVar(&c.GRPCListen, "grpc-listen", "127.0.0.1:"+port, "`ADDRESS` of the control API, HOST:PORT or unix:PATH")
	fs.StringVar(&c.TLSCert, "tls-cert", "", "certificate `FILE`, PEM")
	fs.StringVar(&c.TLSKey, "tls-key", "", "`FILE` with the key of the certificate, PEM")
	fs.StringVar(&c.TLSCA, "tls-ca", "", "`FILE` with the CA that others are judged by, PEM")
	fs.StringVar(&c.MetricsListen, "metrics-listen", "", "`ADDRESS` of GET /metrics, HOST:PORT or unix:PATH; empty is off")
	fs.StringVar(&c.LogLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	fs.BoolVar(&showVersion, "version", false, "print the version and end")
	if extra != nil {
		extra(fs)
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			usage(fs, around.out)
		}
		return Config{}, false, err
	}
	if fs.NArg() > 0 {
		return Config{}, false, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err := fromEnvironment(fs, around.env); err != nil {
		return Config{}, false, err
	}
	c.stateDirFree = true
	fs.Visit(func(f *flag.Flag) { c.stateDirFree = c.stateDirFree && f.Name != "state-dir" })
	for endpoint := range strings.SplitSeq(endpoints, ",") {
		if endpoint = strings.TrimSpace(endpoint); endpoint != "" {
			c.Etcd = append(c.Etcd, endpoint)
		}
	}
	if c.TLSCert+c.TLSKey+c.TLSCA != "" && !showVersion {
		if c.files, err = certs.Open(c.TLSCert, c.TLSKey, c.TLSCA); err != nil {
			return Config{}, false, err
		}
	}
	return c, showVersion, nil
}

// variable is the environment variable of a flag.
func variable(name string) string {
	return "TWOTIER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// fromEnvironment sets the flags that were not given.
func fromEnvironment(fs *flag.FlagSet, env func(string) (string, bool)) error {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var wrong error
	fs.VisitAll(func(f *flag.Flag) {
		value, set := env(variable(f.Name))
		if !set || given[f.Name] {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("%s: %w", variable(f.Name), err))
		}
	})
	return wrong
}

func usage(fs *flag.FlagSet, out io.Writer) {
	fmt.Fprintf(out, "usage: %s [flags]          run\n       %s health [flags]   ask the one that runs: exit code 0 or 1\n\n", fs.Name(), fs.Name())
	fmt.Fprintf(out, "A flag that is not given is taken from the environment: --grpc-listen is %s.\n\n", variable("grpc-listen"))
	fs.SetOutput(out)
	fs.PrintDefaults()
}

// validate checks what only matters to a service that is to run, and makes its logger.
func (c Config) validate(out io.Writer) (*zap.Logger, error) {
	switch {
	case c.Node == "" || strings.ContainsAny(c.Node, "/ \t\n"):
		return nil, fmt.Errorf("--node: want a name without slashes and spaces, got %q", c.Node)
	case len(c.Etcd) == 0 && c.Desired == "":
		return nil, errors.New("want --etcd or --desired: where the desired state comes from")
	case len(c.Etcd) > 0 && c.Desired != "":
		return nil, errors.New("want only one of --etcd and --desired")
	}
	return logging.New(c.Service, c.Node, c.LogLevel, out)
}

// ClientTLS is for connecting to etcd and to other services with the own certificate; nil without TLS flags.
func (c Config) ClientTLS() (*tls.Config, error) {
	files, err := c.tlsFiles()
	if files == nil {
		return nil, err
	}
	return files.Client(), nil
}

// ServerTLS is for listening; it requires a client certificate of the CA. nil without TLS flags.
func (c Config) ServerTLS() (*tls.Config, error) {
	files, err := c.tlsFiles()
	if files == nil {
		return nil, err
	}
	return files.Server(), nil
}

// tlsFiles are those that the flags were parsed with, or, in a Config made by hand, those that it names.
func (c Config) tlsFiles() (*certs.Files, error) {
	if c.files != nil || c.TLSCert+c.TLSKey+c.TLSCA == "" {
		return c.files, nil
	}
	return certs.Open(c.TLSCert, c.TLSKey, c.TLSCA)
}

// stateDir is StateDir, or nothing when none was asked for and the default one cannot be made. Who names one wants it to
// work.
func (c Config) stateDir(log *zap.Logger) string {
	if c.stateDirFree {
		if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
			log.Warn("no place for the last good desired state; give one with --state-dir", zap.Error(err))
			return ""
		}
	}
	return c.StateDir
}

// DesiredConfig is the configuration of the store of desired state.
func (c Config) DesiredConfig(kinds []desired.Kind, log *zap.Logger) desired.Config {
	return desired.Config{
		Service:  c.Service,
		Kinds:    kinds,
		Etcd:     c.Etcd,
		TLS:      c.mustTLS((*certs.Files).Client),
		Path:     c.Desired,
		StateDir: c.stateDir(log),
		Log:      log,
	}
}

// StatusConfig is the configuration of the status reporter.
func (c Config) StatusConfig(version string, log *zap.Logger) status.Config {
	return status.Config{
		Service: c.Service,
		Node:    c.Node,
		Version: version,
		Etcd:    c.Etcd,
		TLS:     c.mustTLS((*certs.Files).Client),
		Log:     log,
	}
}

// RelayConfig is the configuration of the relay.
func (c Config) RelayConfig(log *zap.Logger) relay.Config {
	return relay.Config{Etcd: c.Etcd, TLS: c.mustTLS((*certs.Files).Client), Log: log}
}

// GRPCConfig is the configuration of the control API's server.
func (c Config) GRPCConfig(log *zap.Logger) grpcserver.Config {
	return grpcserver.Config{Listen: c.GRPCListen, TLS: c.mustTLS((*certs.Files).Server), Log: log}
}

// mustTLS is nil without TLS flags. Main has opened the files already, so that nothing can go wrong here.
func (c Config) mustTLS(use func(*certs.Files) *tls.Config) *tls.Config {
	if c.files == nil {
		return nil
	}
	return use(c.files)
}
