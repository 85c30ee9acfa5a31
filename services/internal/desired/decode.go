package desired

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// MaxObject is the largest stored object, in bytes of JSON; etcd takes 1.5 MiB in one request.
const MaxObject = 1 << 20

// jsonPlace is the place in the JSON text, which nobody has in front of them.
var jsonPlace = regexp.MustCompile(`^(syntax error )?\(line \d+:\d+\): `)

// encode is the stored form: JSON with the field names of the proto files, on one line, the same every time.
func encode(m proto.Message) ([]byte, error) {
	loose, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	// protojson varies its white space on purpose.
	var compact bytes.Buffer
	if err := json.Compact(&compact, loose); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

// decode reads the stored form, and refuses what it does not know.
func decode(kind Kind, text []byte) (proto.Message, error) {
	m := kind.New()
	if err := protojson.Unmarshal(text, m); err != nil {
		// protojson varies the white space of its messages on purpose, too.
		reason := strings.ReplaceAll(err.Error(), "\u00a0", " ")
		return nil, fmt.Errorf("%s", jsonPlace.ReplaceAllString(strings.TrimPrefix(reason, "proto: "), ""))
	}
	return m, nil
}
