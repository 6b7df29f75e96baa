package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// bucket is a bucket behind an endpoint, addressed in the path.
type bucket struct {
	endpoint, name        string
	access, secret, token string
	client                http.Client
}

// fromEnvironment reads the five variables; nil when one is not set at all.
func fromEnvironment() (*bucket, error) {
	values := map[string]string{}
	for _, name := range []string{"ENDPOINT", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "BUCKET_NAME"} {
		value, set := os.LookupEnv("S3_" + name)
		if !set {
			return nil, nil
		}
		values[name] = value
	}
	endpoint := values["ENDPOINT"]
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	if _, err := url.Parse(endpoint); err != nil {
		return nil, err
	}
	return &bucket{
		endpoint: endpoint, name: values["BUCKET_NAME"],
		access: values["ACCESS_KEY_ID"], secret: values["SECRET_ACCESS_KEY"], token: values["SESSION_TOKEN"],
		client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute},
	}, nil
}

func (b *bucket) head(key string) (bool, error) {
	status, _, err := b.do(http.MethodHead, key, nil)
	return status == http.StatusOK, err
}

func (b *bucket) get(key string) ([]byte, error) {
	status, body, err := b.do(http.MethodGet, key, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("GET answered %d", status)
	}
	return body, err
}

func (b *bucket) put(key string, body []byte) error {
	status, _, err := b.do(http.MethodPut, key, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("PUT answered %d", status)
	}
	return err
}

func (b *bucket) do(method, key string, body []byte) (int, []byte, error) {
	request, err := http.NewRequest(method, b.endpoint+"/"+b.name+"/"+encode(key), bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	b.sign(request, body)
	response, err := b.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	found, err := io.ReadAll(response.Body)
	return response.StatusCode, found, err
}

// encode escapes everything that a signed path must not hold as it is.
func encode(key string) string {
	var out strings.Builder
	for _, c := range []byte(key) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// sign puts a signature of version 4 on the request.
func (b *bucket) sign(request *http.Request, body []byte) {
	now := time.Now().UTC()
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	request.Header.Set("x-amz-date", stamp)
	request.Header.Set("x-amz-content-sha256", digest)
	names := "host;x-amz-content-sha256;x-amz-date"
	headers := "host:" + request.URL.Host + "\nx-amz-content-sha256:" + digest + "\nx-amz-date:" + stamp + "\n"
	if b.token != "" {
		request.Header.Set("x-amz-security-token", b.token)
		names += ";x-amz-security-token"
		headers += "x-amz-security-token:" + b.token + "\n"
	}
	canonical := request.Method + "\n" + request.URL.EscapedPath() + "\n\n" + headers + "\n" + names + "\n" + digest
	scope := day + "/us-east-1/s3/aws4_request"
	hashed := sha256.Sum256([]byte(canonical))
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hex.EncodeToString(hashed[:])
	key := []byte("AWS4" + b.secret)
	for _, part := range []string{day, "us-east-1", "s3", "aws4_request", text} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+b.access+"/"+scope+
		", SignedHeaders="+names+", Signature="+hex.EncodeToString(key))
}
