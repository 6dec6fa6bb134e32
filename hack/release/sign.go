package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// parseKey reads a private key for ECDSA: one of "cosign generate-key-pair" with its
// password, or one without a password in PKCS #8 or SEC 1.
func parseKey(text, password []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is no PEM block; give the content of cosign.key")
	}
	der := block.Bytes
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(der)
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		var err error
		if der, err = encrypted.Decrypt(der, password); err != nil {
			return nil, fmt.Errorf("decrypt it with COSIGN_PASSWORD: %w", err)
		}
	case "PRIVATE KEY":
	default:
		return nil, fmt.Errorf("it is a PEM block %q; want a key of cosign generate-key-pair", block.Type)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T; want a key for ECDSA", parsed)
	}
	return key, nil
}

// sign writes the signature of the file beside it, e.g. SHA256SUMS.sig, in the form of
// "cosign sign-blob --key": base64 of an ECDSA signature (ASN.1) of the SHA-256. The
// same key and file give the same signature (RFC 6979).
func sign(file string, key *ecdsa.PrivateKey) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(text)
	signed, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("sign %s: %w", file, err)
	}
	return os.WriteFile(file+".sig", []byte(base64.StdEncoding.EncodeToString(signed)), 0o644)
}
