package desired

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// MaxObject is the largest stored object, in bytes of JSON; etcd takes 1.5 MiB in one request.
const MaxObject = 1 << 20

// jsonPlace is the place in the JSON text, line and column in characters, which nobody has in front of them.
var jsonPlace = regexp.MustCompile(`^(?:syntax error )?\(line (\d+):(\d+)\): `)

// misread is what is wrong with the text of an object, and in which field.
type misread struct {
	path   path
	reason string
}

// Error is the reason, with the field before it.
func (m *misread) Error() string {
	if len(m.path) == 0 {
		return m.reason
	}
	return m.path.String() + ": " + m.reason
}

// violation is what is wrong with the object of a key, of a field if the error names one. place is where its text stands.
func violation(key, place string, err error) *commonv1.Violation {
	reason := err.Error()
	if m := (*misread)(nil); errors.As(err, &m) && len(m.path) > 0 {
		key, reason = key+"."+m.path.String(), m.reason
	}
	return &commonv1.Violation{Field: key, Description: place + reason}
}

// path leads to a field of an object: names, and places in lists.
type path []any

// String is the form that violations have: members[0].priority.
func (p path) String() string {
	var text strings.Builder
	for _, step := range p {
		switch step := step.(type) {
		case int:
			fmt.Fprintf(&text, "[%d]", step)
		case string:
			if text.Len() > 0 {
				text.WriteByte('.')
			}
			text.WriteString(step)
		}
	}
	return text.String()
}

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

// decode reads the stored form, and refuses what it does not know with a *misread.
func decode(kind Kind, text []byte) (proto.Message, error) {
	m := kind.New()
	err := protojson.Unmarshal(text, m)
	if err == nil {
		return m, nil
	}
	// protojson varies the white space of its messages on purpose, too.
	reason := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
	place := jsonPlace.FindStringSubmatch(reason)
	if place == nil {
		return nil, &misread{reason: reason}
	}
	line, _ := strconv.Atoi(place[1]) // the pattern wants digits
	column, _ := strconv.Atoi(place[2])
	return nil, &misread{pathAt(text, byteAt(text, line, column)), strings.TrimPrefix(reason, place[0])}
}

// byteAt is where a character is, lines and columns counted from 1.
func byteAt(text []byte, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		at += bytes.IndexByte(text[at:], '\n') + 1
	}
	for ; column > 1 && at < len(text); column-- {
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return at
}

// pathAt is the path to the field whose name or value is at a place in JSON text; none, if there is no such field before
// the text is wrong.
func pathAt(text []byte, at int) path {
	decoder := json.NewDecoder(bytes.NewReader(text))
	var steps path // of an object, the name at hand, nil before the first; of a list, the place
	named := false // the last token was a name
	for {
		token, err := decoder.Token()
		if err != nil {
			return nil
		}
		last := len(steps) - 1
		closes := token == json.Delim('}') || token == json.Delim(']')
		if closes {
			steps = steps[:last]
		} else if last >= 0 && !named {
			if place, list := steps[last].(int); list {
				steps[last] = place + 1
			} else {
				steps[last], named = token, true
			}
		} else {
			named = false
		}
		if decoder.InputOffset() > int64(at) {
			return slices.DeleteFunc(steps, func(step any) bool { return step == nil })
		}
		switch {
		case closes || named:
			continue
		case token == json.Delim('{'):
			steps = append(steps, nil)
		case token == json.Delim('['):
			steps = append(steps, -1)
		}
	}
}
